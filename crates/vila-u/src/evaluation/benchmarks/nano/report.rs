//! What the nano benchmark measured, as a table and as files.

use std::{collections::BTreeMap, fmt, path::Path};

use image::RgbImage;
use serde::Serialize;

use crate::{
    Result,
    data::nano::Kind,
    evaluation::metrics::{CodeUse, Estimate},
    media,
};

/// Shares are parts of one; every estimate has its 95 % interval and n.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Scenes of known objects in combinations never seen.
    pub reconstruction: Quality,
    /// Emoji never seen at all.
    pub reconstruction_new_emoji: Quality,
    /// Of the codebook, at each depth.
    pub codebook: Vec<CodeUse>,
    /// The right caption of 100, by quantized features.
    pub matching: Estimate,
    /// Answers that are exactly right, all together and by kind of question.
    pub answers: Estimate,
    pub answers_by_kind: BTreeMap<Kind, Estimate>,
    /// About held-out videos, in the same way.
    pub video_answers: Estimate,
    pub video_answers_by_kind: BTreeMap<Kind, Estimate>,
    /// About two pictures that differ in one thing: in what, and how.
    pub comparisons: BTreeMap<Kind, Estimate>,
    /// Without a picture.
    pub riddles: BTreeMap<Kind, Estimate>,
    pub drawing: Drawing,
    /// Held-out videos through codes and back: what can be seen of them at best.
    pub video_reconstruction: VideoDrawing,
    /// Held-out videos made from their captions.
    pub video: VideoDrawing,
    /// Names and pictures: originals above reconstructions, and drawings in the order of captions.
    #[serde(skip)]
    pub sheets: Vec<(&'static str, RgbImage)>,
}

/// How close reconstructions are to their originals.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// dB
    pub psnr: Estimate,
    pub ssim: Estimate,
}

/// Drawings of captions never seen.
#[derive(Clone, Debug, Serialize)]
pub struct Drawing {
    /// The named object explains the picture better than any other.
    pub object: Estimate,
    pub background: Estimate,
    pub count: Estimate,
}

/// Videos read back from their frames.
#[derive(Clone, Debug, Serialize)]
pub struct VideoDrawing {
    /// The named object explains every frame better than any other.
    pub object: Estimate,
    /// Every frame has the named background.
    pub background: Estimate,
    /// The object moves, grows, shrinks or turns as the caption says.
    pub motion: Estimate,
}

impl Report {
    /// Writes every contact sheet as a PNG file into an existing folder.
    pub fn save_sheets(&self, folder: &Path) -> Result<()> {
        for (name, picture) in &self.sheets {
            media::save_png(&folder.join(format!("{name}.png")), picture)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decibel = |e: &Estimate| {
            let Estimate {
                value,
                low,
                high,
                n,
            } = e;
            format!("{value:6.2} dB [{low:.2}, {high:.2}], n = {n}")
        };
        let percent = |e: &Estimate| {
            let [value, low, high] = [e.value, e.low, e.high].map(|part| 100.0 * part);
            format!("{value:6.1} %  [{low:.1}, {high:.1}], n = {}", e.n)
        };
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{name:<32}{value}"));
        line("reconstruction PSNR", decibel(&self.reconstruction.psnr));
        line("reconstruction SSIM", self.reconstruction.ssim.to_string());
        line(
            "new emoji PSNR",
            decibel(&self.reconstruction_new_emoji.psnr),
        );
        line(
            "new emoji SSIM",
            self.reconstruction_new_emoji.ssim.to_string(),
        );
        for (depth, CodeUse { used, perplexity }) in self.codebook.iter().enumerate() {
            line(
                &format!("codebook, depth {}", depth + 1),
                format!("{:6.1} %  used, perplexity {perplexity:.0}", 100.0 * used),
            );
        }
        line("caption matching, 100-way", percent(&self.matching));
        line("answers", percent(&self.answers));
        for (kind, share) in &self.answers_by_kind {
            line(&format!("  {}", kind.name()), percent(share));
        }
        line("drawing: object", percent(&self.drawing.object));
        line("drawing: background", percent(&self.drawing.background));
        line("drawing: count", percent(&self.drawing.count));
        line("answers about videos", percent(&self.video_answers));
        for (title, kinds) in [
            ("  ", &self.video_answers_by_kind),
            ("comparison: ", &self.comparisons),
            ("riddle: ", &self.riddles),
        ] {
            for (kind, share) in kinds {
                line(&format!("{title}{}", kind.name()), percent(share));
            }
        }
        for (title, video) in [
            ("video through codes", &self.video_reconstruction),
            ("video", &self.video),
        ] {
            line(&format!("{title}: object"), percent(&video.object));
            line(&format!("{title}: background"), percent(&video.background));
            line(&format!("{title}: motion"), percent(&video.motion));
        }
        f.write_str(&lines.join("\n"))
    }
}
