//! Pictures and text in turn: pages that describe their pictures, and replies with a picture in them.

use super::{Layout, Scene, Split, words::NUMBERS};
use crate::text::conversation::Turn;

/// Scenes that a page may take: page `n` has scenes `SCENES * n` and those that follow.
const SCENES: u64 = 4;

/// A page of two or three pictures, each before the sentence that describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub scenes: Vec<Scene>,
}

impl Page {
    /// Page `index` of a split: the same for the same arguments, always.
    pub fn sample(split: Split, seed: u64, index: u64) -> Self {
        let scenes = Self::numbers(index);
        let scene = |number| Scene::sample(split, seed, number);
        Self {
            scenes: scenes.map(scene).collect(),
        }
    }

    /// The numbers of the scenes on page `index`.
    pub(super) fn numbers(index: u64) -> std::ops::Range<u64> {
        let first = SCENES * index;
        first..first + 2 + index % 2
    }

    /// "a dog on a red background."
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |scene: &Scene| format!("{}.", scene.caption());
        self.scenes.iter().map(sentence).collect()
    }

    /// The page, with `<image>` where its pictures stand.
    pub fn text(&self) -> String {
        let said = |sentence: String| format!("<image>{sentence}");
        let said: Vec<String> = self.sentences().into_iter().map(said).collect();
        said.join(" ")
    }
}

impl Scene {
    /// A request that is answered with this picture and what can only be seen in it: where the
    /// object is that was asked for, or how many there are. None for scenes that leave nothing open.
    ///
    /// ```text
    /// Draw a dog on a red background and say where it is.
    /// Here it is: <image> It is at the left.
    /// ```
    pub fn reply(&self) -> Option<[Turn; 2]> {
        let background = self.background.with_article();
        match &self.layout {
            Layout::Single { object, place, .. } => {
                let object = object.with_article();
                let request = format!("Draw {object} on {background} and say where it is.");
                let reply = format!("Here it is: <image> It is {}.", place.phrase());
                Some([Turn::human(request), Turn::assistant(reply)])
            }
            Layout::Copies { object, .. } => {
                let (objects, count) = (object.plural(), NUMBERS[self.count()]);
                let request = format!("Draw {objects} on {background} and say how many there are.");
                let reply = format!("Here they are: <image> There are {count}.");
                Some([Turn::human(request), Turn::assistant(reply)])
            }
            Layout::Pair { .. } | Layout::Free { .. } => None,
        }
    }

    /// The first scene from `index` on that can be a reply.
    pub fn sample_reply(split: Split, seed: u64, index: u64) -> (Self, [Turn; 2]) {
        // Seven of ten scenes can; the numbers are spread so that neighbours are not the same.
        let mut number = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        loop {
            let scene = Self::sample(split, seed, number);
            if let Some(turns) = scene.reply() {
                return (scene, turns);
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_replies_speak_of_their_pictures() {
        let page = Page::sample(Split::Test, 4, 1);
        assert_eq!(page.scenes.len(), 3);
        assert_eq!(page.scenes[1], Scene::sample(Split::Test, 4, 5));
        let text = page.text();
        assert!(text.starts_with(&format!("<image>{}.", page.scenes[0].caption())));
        assert_eq!(text.matches(" <image>").count(), 2);
        for index in 0..20 {
            let (scene, [request, reply]) = Scene::sample_reply(Split::Test, 4, index);
            assert_eq!(scene.split(), Split::Test);
            assert!(request.value.contains(scene.background.name));
            let said = match scene.count() {
                1 => "It is ",
                count => NUMBERS[count],
            };
            assert!(reply.value.contains("<image>") && reply.value.contains(said));
        }
    }
}
