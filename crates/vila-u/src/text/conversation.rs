//! Prompts: the conversation as the language model was trained to read it (template `vicuna_v1`).
//!
//! `SYSTEM USER: question ASSISTANT: answer</s>USER: ...`; a turn without text is its role and a
//! colon, nothing else.

use serde::{Deserialize, Serialize};

use super::{IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, strip};
use crate::{Error, Result};

const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";

/// The paper's `<image_start>` and so on, as the released vocabulary spells them.
pub const IMAGE_START: &str = "<im_start>";
pub const IMAGE_END: &str = "<im_end>";
pub const VIDEO_START: &str = "<vi_start>";
pub const VIDEO_END: &str = "<vi_end>";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    #[serde(rename = "human")]
    Human,
    #[serde(rename = "gpt")]
    Assistant,
}

/// One message of a conversation, as LLaVA-style records write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub from: Role,
    pub value: String,
}

impl Turn {
    pub fn human(value: impl Into<String>) -> Self {
        Self {
            from: Role::Human,
            value: value.into(),
        }
    }

    pub fn assistant(value: impl Into<String>) -> Self {
        Self {
            from: Role::Assistant,
            value: value.into(),
        }
    }
}

/// What the model is asked to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Text,
    Image,
    Video,
}

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub text: String,
    /// The assistant's words and the `</s>` that ends them: what the model learns to say.
    pub answer: bool,
}

/// The whole conversation in order; joined, the texts are its prompt.
///
/// A first turn of the assistant is dropped. `system`: begin with the system sentence.
/// Errors when human and assistant do not take turns.
pub fn segments(turns: &[Turn], system: bool) -> Result<Vec<Segment>> {
    let turns = match turns {
        [first, rest @ ..] if first.from == Role::Assistant => rest,
        _ => turns,
    };
    let mut segments = vec![Segment {
        text: if system {
            format!("{SYSTEM} ")
        } else {
            " ".into()
        },
        answer: false,
    }];
    for (index, turn) in turns.iter().enumerate() {
        let expected = [Role::Human, Role::Assistant][index % 2];
        if turn.from != expected {
            return Err(Error::usage(format!(
                "turn {} of the conversation is out of order: human and gpt must alternate",
                index + 1
            )));
        }
        let value = strip(&turn.value);
        let mut push = |text: String, answer| match segments.last_mut() {
            Some(last) if last.answer == answer => last.text.push_str(&text),
            _ => segments.push(Segment { text, answer }),
        };
        match turn.from {
            Role::Human if value.is_empty() => push("USER:".into(), false),
            Role::Human => push(format!("USER: {value} "), false),
            Role::Assistant => {
                push("ASSISTANT:".into(), false);
                if !value.is_empty() {
                    push(format!(" {value}</s>"), true);
                }
            }
        }
    }
    Ok(segments)
}

/// The conversation as one text, complete with its last answer.
pub fn prompt(turns: &[Turn], system: bool) -> Result<String> {
    let segments = segments(turns, system)?;
    Ok(segments.into_iter().map(|segment| segment.text).collect())
}

/// The conversation up to where the model goes on with a reply.
pub fn generation_prompt(turns: &[Turn], reply: Reply, system: bool) -> Result<String> {
    let mut turns = turns.to_vec();
    turns.push(Turn::assistant(""));
    let prompt = prompt(&turns, system)?;
    Ok(match reply {
        Reply::Text => prompt,
        Reply::Image => format!("{prompt} {IMAGE_START}"),
        Reply::Video => format!("{prompt} {VIDEO_START}"),
    })
}

/// The prompt without a caption, which classifier-free guidance steers away from.
pub fn unconditional_prompt(reply: Reply, system: bool) -> Result<String> {
    generation_prompt(&[Turn::human("")], reply, system)
}

/// Something that is shown with a question, by its number among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisualInput {
    Image(usize),
    Video(usize),
}

/// A question about images alone; see [`question_about`].
pub fn question(text: &str, images: usize) -> Result<String> {
    let (question, _) = question_about(text, images, 0, 0)?;
    Ok(question)
}

/// A question with what it is about: each `<image>` and `<video>` stands for the next image or video.
/// Those of a kind that the question does not place come first, images before videos. A line ends after
/// each image and each of the `frames` frames of a video.
///
/// Also gives what is shown in the order in which it is read. Errors when the question names another
/// number of images or videos.
pub fn question_about(
    text: &str,
    images: usize,
    videos: usize,
    frames: usize,
) -> Result<(String, Vec<VisualInput>)> {
    let mut first = String::new();
    for (placeholder, given, kind) in [
        (IMAGE_PLACEHOLDER, images, "images"),
        (VIDEO_PLACEHOLDER, videos, "videos"),
    ] {
        match text.matches(placeholder).count() {
            0 => first += &placeholder.repeat(given),
            named if named == given => {}
            named => {
                return Err(Error::usage(format!(
                    "the question has {named} x {placeholder}, and {given} {kind} are given: give as many \
                     of each, or leave the placeholders out"
                )));
            }
        }
    }
    let line = format!("{IMAGE_PLACEHOLDER}\n");
    let (mut question, mut shown) = (String::new(), Vec::new());
    let all = first + text;
    let mut rest = all.as_str();
    let (mut image, mut video) = (0, 0);
    loop {
        let next = [IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER]
            .into_iter()
            .filter_map(|placeholder| Some((rest.find(placeholder)?, placeholder)))
            .min();
        let Some((at, placeholder)) = next else {
            return Ok((question + rest, shown));
        };
        question += &rest[..at];
        rest = &rest[at + placeholder.len()..];
        rest = rest.strip_prefix('\n').unwrap_or(rest);
        match placeholder {
            IMAGE_PLACEHOLDER => {
                question += &line;
                shown.push(VisualInput::Image(image));
                image += 1;
            }
            _ => {
                question += &line.repeat(frames);
                shown.push(VisualInput::Video(video));
                video += 1;
            }
        }
    }
}

/// The training form of a conversation about or ending in images: each `<image>` is put at the start
/// of its line and wrapped in its start and end tokens; where none is named, one comes first.
pub fn wrap_images(turns: &[Turn]) -> Vec<Turn> {
    let wrapped = format!("{IMAGE_START}{IMAGE_PLACEHOLDER}{IMAGE_END}");
    let named = turns
        .iter()
        .any(|turn| turn.value.contains(IMAGE_PLACEHOLDER));
    let wrap = |(index, turn): (usize, &Turn)| {
        let mut value = turn.value.clone();
        if index == 0 && !named {
            value = format!("{IMAGE_PLACEHOLDER}\n{value}");
        }
        if value.contains(IMAGE_PLACEHOLDER) {
            let pieces: Vec<&str> = value.split(IMAGE_PLACEHOLDER).map(strip).collect();
            let joined = pieces.join(&format!(" {IMAGE_PLACEHOLDER}\n"));
            value = strip(&joined).replace(IMAGE_PLACEHOLDER, &wrapped);
        }
        Turn {
            from: turn.from,
            value,
        }
    };
    turns.iter().enumerate().map(wrap).collect()
}

/// An assistant's turn that is a video of `frames` frames.
pub fn video_reply(frames: usize) -> String {
    format!(
        "{VIDEO_START}{}{VIDEO_END}",
        IMAGE_PLACEHOLDER.repeat(frames)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_come_first_unless_the_question_places_them() {
        assert_eq!(question("Same?", 2).unwrap(), "<image>\n<image>\nSame?");
        assert_eq!(question("Is <image> red?", 1).unwrap(), "Is <image>\n red?");
        assert_eq!(question("<image>\nRed?", 1).unwrap(), "<image>\nRed?");
        assert!(question("Is <image> red?", 2).is_err());
        assert_eq!(question("Hello", 0).unwrap(), "Hello");
        // Examples, and what is asked.
        assert_eq!(
            question("<image>1. <image>2. <image>", 3).unwrap(),
            "<image>\n1. <image>\n2. <image>\n"
        );
    }

    #[test]
    fn videos_are_their_frames_and_stand_where_they_are_named() {
        let (text, shown) = question_about("<video>Like <image>?", 1, 1, 2).unwrap();
        assert_eq!(text, "<image>\n<image>\nLike <image>\n?");
        assert_eq!(shown, [VisualInput::Video(0), VisualInput::Image(0)]);
        let (text, shown) = question_about("Same?", 1, 2, 2).unwrap();
        assert_eq!(text, "<image>\n".repeat(5) + "Same?");
        assert_eq!(
            shown,
            [
                VisualInput::Image(0),
                VisualInput::Video(0),
                VisualInput::Video(1)
            ]
        );
        let (text, shown) = question_about("Is it <image>?", 1, 1, 2).unwrap();
        assert_eq!(text, "<image>\n<image>\nIs it <image>\n?");
        assert_eq!(shown, [VisualInput::Video(0), VisualInput::Image(0)]);
        let error = question_about("<video> <video>", 0, 1, 8).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("2 x <video>, and 1 videos are given: give as many")
        );
        assert!(question_about("<video>", 1, 0, 8).is_err());
    }

    #[test]
    fn wrapping_moves_images_to_the_start_of_a_line() {
        let value = |text| wrap_images(&[Turn::human(text)])[0].value.clone();
        assert_eq!(value("a<image>b"), "a <im_start><image><im_end>\nb");
        assert_eq!(value("<image>\n"), "<im_start><image><im_end>");
    }

    #[test]
    fn turns_must_alternate() {
        assert!(prompt(&[Turn::human("a"), Turn::human("b")], true).is_err());
        assert!(prompt(&[], true).is_ok());
    }
}
