//! Two scenes that differ in one thing, and what can be asked about the two.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    Kind, Layout, Place, Question, Scene, Size, Split, emoji,
    scene::{COLOURS, copies, pick, rng},
    words::{NUMBERS, Questions},
};

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    Colour,
    Object,
    Count,
    Size,
    Place,
}

/// Two scenes that are alike but for one aspect.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub scenes: [Scene; 2],
    pub aspect: Aspect,
}

impl Comparison {
    /// Comparison `index` of a split: the same for the same arguments, always. Of a split that is held out, at
    /// least one of the scenes is, and none is of the other.
    pub fn sample(split: Split, seed: u64, index: u64) -> Self {
        let mut rng = rng("comparison", split, seed, index);
        loop {
            let Some(found) = Self::propose(&mut rng) else {
                continue;
            };
            let of = Split::of_all(found.scenes.iter().map(Scene::split));
            let visible = found.scenes.iter().all(Scene::visible);
            if of == Some(split) && visible {
                return found;
            }
        }
    }

    /// None when the two are the same.
    fn propose(rng: &mut ChaCha8Rng) -> Option<Self> {
        const ASPECTS: [Aspect; 5] = [
            Aspect::Colour,
            Aspect::Object,
            Aspect::Count,
            Aspect::Size,
            Aspect::Place,
        ];
        const SIZES: [Size; 3] = [Size::Small, Size::Medium, Size::Large];
        let aspect = *pick(rng, &ASPECTS);
        let wording = rng.random();
        let objects = [(); 2].map(|()| *pick(rng, emoji::inventory()));
        let colours = [(); 2].map(|()| *pick(rng, &COLOURS));
        let counts = [(); 2].map(|()| rng.random_range(1..5_u32) as usize);
        let sizes = [(); 2].map(|()| *pick(rng, &SIZES));
        let places = [(); 2].map(|()| Place {
            column: rng.random_range(0..3),
            row: rng.random_range(0..3),
        });
        // Which of two choices a scene has: its own where the aspect is this one, else the first.
        let of = |own: Aspect, scene: usize| if aspect == own { scene } else { 0 };
        let mut scene = |at: usize| {
            let object = objects[of(Aspect::Object, at)];
            let layout = match aspect {
                Aspect::Colour | Aspect::Object | Aspect::Count => {
                    match counts[of(Aspect::Count, at)] {
                        1 => Layout::Single {
                            object,
                            place: Place::MIDDLE,
                            size: Size::Medium,
                        },
                        count => {
                            let (side, corners) = copies(rng, count);
                            Layout::Copies {
                                object,
                                side,
                                corners,
                            }
                        }
                    }
                }
                Aspect::Size => Layout::Single {
                    object,
                    place: Place::MIDDLE,
                    size: sizes[at],
                },
                // A large object is always in the middle.
                Aspect::Place => Layout::Single {
                    object,
                    place: places[at],
                    size: match sizes[0] {
                        Size::Small => Size::Small,
                        _ => Size::Medium,
                    },
                },
            };
            Scene {
                background: colours[of(Aspect::Colour, at)],
                layout,
                wording,
            }
        };
        let mut scenes = [scene(0), scene(1)];
        // Two copies stand side by side or one above the other: the same in both.
        if matches!(aspect, Aspect::Colour) {
            scenes[1].layout = scenes[0].layout.clone();
        }
        if let (Aspect::Object, Layout::Copies { corners, .. }) = (aspect, &scenes[0].layout) {
            let same = corners.clone();
            if let Layout::Copies { corners, .. } = &mut scenes[1].layout {
                *corners = same;
            }
        }
        let found = Self { scenes, aspect };
        let [first, second] = found.sides();
        (first != second).then_some(found)
    }

    /// What the one and the other have.
    fn sides(&self) -> [String; 2] {
        let side = |scene: &Scene| match (self.aspect, &scene.layout) {
            (Aspect::Colour, _) => scene.background.with_article(),
            (Aspect::Count, Layout::Single { object, .. }) => {
                format!("{} {}", NUMBERS[1], object.name)
            }
            (Aspect::Size, Layout::Single { object, size, .. }) => {
                format!("a {} {}", size.word(), object.name)
            }
            (Aspect::Place, Layout::Single { object, place, .. }) => {
                format!("{} {}", object.with_article(), place.phrase())
            }
            _ => scene.subject(),
        };
        [0, 1].map(|at| side(&self.scenes[at]))
    }

    /// What may be asked; `<image>` stands for the first and the second picture.
    pub fn questions(&self) -> Vec<Question> {
        let mut all = Questions(Vec::new(), 0);
        let [first, second] = self.sides();
        all.ask(
            Kind::Difference,
            &["What is the difference between <image> and <image>?"],
            &format!("the first has {first}, the second has {second}"),
        );
        let aspect = match self.aspect {
            Aspect::Colour => "the colour",
            Aspect::Object => "the object",
            Aspect::Count => "the count",
            Aspect::Size => "the size",
            Aspect::Place => "the place",
        };
        all.ask(
            Kind::Aspect,
            &["In what do <image> and <image> differ?"],
            aspect,
        );
        all.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_thing_differs() {
        let mut met = Vec::new();
        for index in 0..200 {
            let split = [Split::Train, Split::Validation, Split::Test][index as usize % 3];
            let found = Comparison::sample(split, 2, index);
            let splits = found.scenes.each_ref().map(Scene::split);
            assert!(
                splits.contains(&split)
                    && splits.iter().all(|of| [Split::Train, split].contains(of))
            );
            let [one, other] = &found.scenes;
            assert_ne!(one.render(64), other.render(64));
            let shapes = |scene: &Scene| -> Vec<_> {
                let placed = scene.placements().into_iter();
                placed
                    .map(|(_, left, top, side)| (left, top, side))
                    .collect()
            };
            let object = |scene: &Scene| scene.placements()[0].0;
            let differs = [
                one.background != other.background,
                object(one) != object(other),
                one.count() != other.count(),
            ];
            let only = |at: usize| (0..3).all(|other| differs[other] == (other == at));
            match found.aspect {
                Aspect::Colour => assert!(only(0) && shapes(one) == shapes(other)),
                Aspect::Object => assert!(only(1) && shapes(one) == shapes(other)),
                Aspect::Count => assert!(only(2)),
                Aspect::Size => assert!(only(3) && shapes(one)[0].2 != shapes(other)[0].2),
                Aspect::Place => assert!(only(3) && shapes(one)[0].2 == shapes(other)[0].2),
            }
            let asked = found.questions();
            assert_eq!(asked[0].question.matches("<image>").count(), 2);
            let [first, second] = found.sides();
            let answer = &asked[0].answer;
            assert!(
                answer.contains(&first) && answer.ends_with(&second),
                "{answer}"
            );
            if !met.contains(&asked[1].answer) {
                met.push(asked[1].answer.clone());
            }
        }
        assert_eq!(met.len(), 5);
    }
}
