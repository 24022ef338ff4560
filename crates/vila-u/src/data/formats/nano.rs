//! The nano world as a dataset: one endless shard, of which record `n` follows from the seed and from `n`.

use image::RgbImage;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bad, Records};
use crate::data::Layers;
use crate::data::nano::{Comparison, Page, Question, Scene, Split, Video, riddle};
use crate::data::record::{DESCRIBE, DESCRIBE_VIDEO, Image, Pictures, Record, Text};
use crate::data::sample_kind::{KindWeights, SampleKind};
use crate::data::seed::mix;
use crate::sequence::templates::VIDEO_FRAMES;
use crate::text::conversation::Turn;

/// Turns of one conversation about a picture or a video.
const MOST_QUESTIONS: usize = 3;

/// A picture that is rendered at any size.
#[derive(Clone, Debug, PartialEq)]
pub enum Rendering {
    Scene(Scene),
    /// The frame of a video at a time of 0 to 1.
    Frame(Video, f64),
}

impl Rendering {
    /// With so many pixels a side.
    pub fn render(&self, size: u32) -> RgbImage {
        match self {
            Self::Scene(scene) => scene.render(size),
            Self::Frame(video, time) => video.frame(*time, size),
        }
    }

    /// The same, with what is cut out and what is behind it apart.
    pub fn layers(&self, size: u32) -> Layers {
        match self {
            Self::Scene(scene) => scene.layers(size),
            Self::Frame(video, time) => video.layers(*time, size),
        }
    }
}

/// Which records there are.
#[derive(Clone, Debug)]
pub(crate) struct Nano {
    pub split: Split,
    pub seed: u64,
    /// How often each kind comes.
    pub kinds: KindWeights,
    /// Share of pictures with a caption that have one of the many further emoji at any place and size.
    pub gallery: f64,
    /// Share of pictures with a caption that are a frame of a video.
    pub frames: f64,
}

/// All records from the first on; any of them can be skipped to at once.
pub(in crate::data) fn open(nano: Nano) -> Records {
    Box::new(Endless { nano, next: 0 })
}

struct Endless {
    nano: Nano,
    next: u64,
}

impl Iterator for Endless {
    type Item = std::result::Result<Record, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        self.nth(0)
    }

    fn nth(&mut self, skipped: usize) -> Option<Self::Item> {
        let index = self.next + skipped as u64;
        self.next = index + 1;
        Some(Ok(self.nano.record(index)))
    }
}

impl Nano {
    fn record(&self, index: u64) -> Record {
        let (split, seed) = (self.split, self.seed);
        let kind = self.kinds.pick(index).unwrap_or(SampleKind::Caption);
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, index));
        let (text, pictures) = match kind {
            SampleKind::Caption => {
                let (caption, picture) = self.captioned(index);
                let turns = vec![Turn::human(DESCRIBE), Turn::assistant(caption)];
                (about(turns, !rng.random::<bool>()), vec![picture])
            }
            SampleKind::Generation => {
                let (caption, picture) = self.captioned(index);
                let turns = vec![Turn::human(caption), Turn::assistant("<image>")];
                (Text::Turns(turns), vec![picture])
            }
            SampleKind::Question => {
                let scene = Scene::sample(split, seed, index);
                let turns = a_few(scene.questions(), &mut rng);
                let text = about(turns, !rng.random::<bool>());
                (text, vec![Rendering::Scene(scene)])
            }
            SampleKind::VideoGeneration => {
                let video = Video::sample(split, seed, index);
                let turns = vec![Turn::human(video.caption()), Turn::assistant("<video>")];
                return record(kind, index, Text::Turns(turns), frames(&video));
            }
            SampleKind::VideoQuestion => {
                let video = Video::sample(split, seed, index);
                let turns = if rng.random_bool(0.25) {
                    let caption = Turn::assistant(video.caption());
                    vec![Turn::human(DESCRIBE_VIDEO), caption]
                } else {
                    a_few(video.questions(), &mut rng)
                };
                return record(kind, index, Text::Turns(turns), frames(&video));
            }
            SampleKind::Page => {
                let page = Page::sample(split, seed, index);
                let text = Text::Page(page.text());
                let pictures = page.scenes.into_iter().map(Rendering::Scene);
                (text, pictures.collect())
            }
            SampleKind::Comparison => {
                let comparison = Comparison::sample(split, seed, index);
                let asked = comparison.questions();
                let asked = asked.choose(&mut rng).cloned().into_iter().collect();
                let text = about(conversation(asked), rng.random());
                (text, comparison.scenes.map(Rendering::Scene).into())
            }
            SampleKind::Reply => {
                let (scene, turns) = Scene::sample_reply(split, seed, index);
                (Text::Turns(turns.into()), vec![Rendering::Scene(scene)])
            }
            SampleKind::Text => {
                let turns = conversation(vec![riddle(split, seed, index)]);
                (Text::Turns(turns), Vec::new())
            }
        };
        let pictures = pictures.into_iter().map(Image::Rendered).collect();
        record(kind, index, text, Pictures::Images(pictures))
    }

    /// A picture and its caption: a scene, art of the gallery, or a frame of a video.
    fn captioned(&self, index: u64) -> (String, Rendering) {
        let (split, seed) = (self.split, self.seed);
        // Every so many pictures one is none of a scene, and of these every so many one is of the
        // gallery: exactly the shares, in any stretch.
        let others = self.gallery + self.frames;
        let count = |share: f64, index: u64| (index as f64 * share) as u64;
        let nth = count(others, index);
        let scene = if count(others, index + 1) == nth {
            Scene::sample(split, seed, index)
        } else {
            let gallery = self.gallery / others;
            if count(gallery, nth + 1) == count(gallery, nth) {
                let video = Video::sample(split, seed, index);
                let frame = mix(seed, index) % VIDEO_FRAMES as u64;
                let time = frame as f64 / (VIDEO_FRAMES - 1) as f64;
                return (video.still().caption(), Rendering::Frame(video, time));
            }
            Scene::sample_gallery(split, seed, index)
        };
        (scene.caption(), Rendering::Scene(scene))
    }
}

fn record(kind: SampleKind, index: u64, text: Text, pictures: Pictures) -> Record {
    Record {
        id: format!("{} {index}", kind.name()),
        text,
        pictures,
    }
}

/// Questions about a picture that stands alone, as people ask them, or about one between its start and end
/// tokens.
fn about(turns: Vec<Turn>, alone: bool) -> Text {
    if alone {
        Text::Asked(turns)
    } else {
        Text::Turns(turns)
    }
}

fn frames(video: &Video) -> Pictures {
    let last = (VIDEO_FRAMES - 1) as f64;
    let frame = |frame| Rendering::Frame(video.clone(), frame as f64 / last);
    let frames = (0..VIDEO_FRAMES).map(frame).map(Image::Rendered);
    Pictures::Frames(frames.collect())
}

/// A conversation of a few of the questions.
fn a_few(mut questions: Vec<Question>, rng: &mut ChaCha8Rng) -> Vec<Turn> {
    questions.shuffle(rng);
    questions.truncate(MOST_QUESTIONS);
    conversation(questions)
}

fn conversation(asked: Vec<Question>) -> Vec<Turn> {
    let turns = |asked: Question| [Turn::human(asked.question), Turn::assistant(asked.answer)];
    asked.into_iter().flat_map(turns).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::nano::Layout;

    fn nano(kinds: KindWeights) -> Nano {
        Nano {
            split: Split::Train,
            seed: 3,
            kinds,
            gallery: 0.0,
            frames: 0.0,
        }
    }

    #[test]
    fn records_are_the_same_however_they_are_reached() {
        let all = || open(nano(KindWeights::new([1.0; 9])));
        let first: Vec<_> = all().take(40).map(|record| record.unwrap()).collect();
        let mut skipping = all();
        for at in [0, 7, 8, 30] {
            let mut again = all();
            assert_eq!(again.nth(at).unwrap().unwrap(), first[at]);
        }
        assert_eq!(skipping.nth(3).unwrap().unwrap(), first[3]);
        assert_eq!(skipping.nth(2).unwrap().unwrap(), first[6]);
        let kinds: std::collections::BTreeSet<_> = first
            .iter()
            .map(|record| record.id.split(' ').next().unwrap())
            .collect();
        assert!(kinds.len() >= 7, "{kinds:?}");
    }

    #[test]
    fn other_pictures_have_exactly_their_shares() {
        let nano = Nano {
            gallery: 0.1,
            frames: 0.15,
            ..nano(KindWeights::only(SampleKind::Caption))
        };
        let pictures: Vec<_> = (0..400).map(|index| nano.captioned(index).1).collect();
        let count =
            |wanted: fn(&Rendering) -> bool| pictures.iter().filter(|one| wanted(one)).count();
        assert_eq!(count(|one| matches!(one, Rendering::Frame(..))), 60);
        let free = |one: &Rendering| match one {
            Rendering::Scene(scene) => matches!(scene.layout, Layout::Free { .. }),
            Rendering::Frame(..) => false,
        };
        assert_eq!(count(free), 40);
    }
}
