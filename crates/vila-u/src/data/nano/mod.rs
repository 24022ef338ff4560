//! The nano world: scenes of Twemoji art on a coloured background, with exact ground truth.
//!
//! A [`Scene`] is one object, up to four copies of it, or two objects in a relation. It
//! renders itself, and states its own captions, questions and answers, so every claim a model makes about
//! a picture can be checked exactly. A [`Video`] is one object that moves, grows, shrinks or turns; a
//! [`Comparison`] is two scenes that differ in one thing; a [`Page`] is scenes and sentences in turn;
//! a [`riddle`] needs no picture. All are a pure function of (split, seed, index).
//!
//! What is held out, by a fixed hash: one in ten combinations (object, colour and count; both
//! objects, relation and colour; or object, motion and colour), one in ten riddles, and one in twelve
//! of the further emoji as a whole. A third of it is for validation, the rest for the test that is reported.
//!
//! Art: Twemoji, copyright Twitter, Inc. and contributors, CC-BY 4.0. Names: Unicode CLDR.

pub mod comparison;
pub mod emoji;
mod page;
mod riddle;
pub mod scene;
mod split;
pub(crate) mod sprite;
mod tokenizer;
pub mod video;
mod video_words;
mod words;
mod write;
mod write_forms;

pub use comparison::Comparison;
pub use emoji::Emoji;
pub use page::Page;
pub use riddle::riddle;
pub use scene::{Colour, Layout, Place, Relation, Scene, Size};
pub use split::Split;
pub use tokenizer::write_tokenizers;
pub use video::{Motion, Video};
pub use words::{Kind, Question};
pub use write::write;

/// FNV-1a, then one round of mixing so that the low bits are good too. Fixed for ever: the splits
/// depend on it.
pub(crate) fn stable_hash(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_inventory_is_what_the_released_weights_know() {
        let names: HashSet<_> = emoji::inventory().iter().map(|emoji| emoji.name).collect();
        assert_eq!((emoji::inventory().len(), names.len()), (71, 71));
        let gallery = Split::ALL.map(|split| emoji::gallery(split).len());
        assert_eq!((gallery[0], gallery[1] + gallery[2]), (983, 82));
        assert!(gallery[1] > 20, "{gallery:?}");
        assert_eq!(emoji::named("red heart").unwrap().character, '\u{2764}');
        assert_eq!(emoji::named("fox").unwrap().plural(), "foxes");
        assert_eq!(
            emoji::named("octopus").unwrap().with_article(),
            "an octopus"
        );
    }

    #[test]
    fn every_emoji_is_rasterised() {
        let gallery = Split::ALL.into_iter().flat_map(emoji::gallery);
        for emoji in emoji::inventory().iter().chain(gallery) {
            let art = sprite::sprite(emoji, 12);
            assert!(
                art.pixels.iter().any(|pixel| pixel[3] > 100),
                "{}",
                emoji.name
            );
        }
    }

    #[test]
    fn splits_share_nothing() {
        for index in 0..500 {
            for split in Split::ALL {
                assert_eq!(Scene::sample(split, 1, index).split(), split);
                assert_eq!(Scene::sample_gallery(split, 1, index).split(), split);
            }
        }
    }

    /// A change here changes the data that the shipped weights were trained and measured on.
    #[test]
    fn scenes_never_change() {
        let captions: Vec<_> = (0..4)
            .map(|index| Scene::sample(Split::Train, 0, index).caption())
            .collect();
        let fixed = [
            "a rainbow on a black background",
            "a yellow background with a medium light bulb at the right",
            "a rainbow on a pink background",
            "a duck on a red background",
        ];
        assert_eq!(captions, fixed);
    }

    #[test]
    fn what_is_said_is_what_is_shown() {
        let heart = *emoji::named("red heart").unwrap();
        let blue = scene::COLOURS[4];
        let scene = Scene::plain(heart, blue);
        let picture = scene.render(64);
        assert_eq!(picture.get_pixel(0, 0).0, blue.rgb);
        assert_eq!(picture.get_pixel(32, 32).0, [0xdd, 0x2e, 0x44]);
        let answers: Vec<_> = scene
            .questions()
            .into_iter()
            .take(3)
            .map(|q| q.answer)
            .collect();
        assert_eq!(answers, ["a red heart", "blue", "one"]);
    }
}
