//! What can be said about a scene: captions, questions and their answers.

use super::{
    Colour, Emoji, Layout, Place, Relation, Scene, Size, emoji, scene::COLOURS, stable_hash,
};

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Object,
    Colour,
    Count,
    Place,
    Size,
    Relation,
    YesNo,
    /// What happens in a video.
    Motion,
    /// Which way it goes, of ways that are named or that the motion's own kind leaves.
    Direction,
    /// In what two pictures differ.
    Aspect,
    /// What is in the one and what in the other.
    Difference,
    /// Of words alone: what kind of thing an object is.
    Category,
    /// Of words alone: how many there are then.
    Arithmetic,
    /// Of words alone: a relation seen from the other object.
    Inverse,
}

impl Kind {
    /// As in reports and files: "yes_no".
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Colour => "colour",
            Self::Count => "count",
            Self::Place => "place",
            Self::Size => "size",
            Self::Relation => "relation",
            Self::YesNo => "yes_no",
            Self::Motion => "motion",
            Self::Direction => "direction",
            Self::Aspect => "aspect",
            Self::Difference => "difference",
            Self::Category => "category",
            Self::Arithmetic => "arithmetic",
            Self::Inverse => "inverse",
        }
    }
}

/// A question about a picture and its only right answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Question {
    pub kind: Kind,
    pub question: String,
    pub answer: String,
}

/// Number words, from zero.
pub(super) const NUMBERS: [&str; 5] = ["zero", "one", "two", "three", "four"];

impl Place {
    /// "at the top left", "in the middle".
    pub fn phrase(self) -> &'static str {
        const PHRASES: [[&str; 3]; 3] = [
            ["at the top left", "at the top", "at the top right"],
            ["at the left", "in the middle", "at the right"],
            ["at the bottom left", "at the bottom", "at the bottom right"],
        ];
        PHRASES[usize::from(self.row)][usize::from(self.column)]
    }
}

impl Size {
    pub fn word(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

impl Relation {
    /// "to the left of", "above".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::LeftOf => "to the left of",
            Self::RightOf => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// The same fact seen from the other object.
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

impl Colour {
    /// "a red background", "an orange background".
    pub fn with_article(&self) -> String {
        let article = if self.name == "orange" { "an" } else { "a" };
        format!("{article} {} background", self.name)
    }
}

impl Scene {
    /// What is there, without background, place or size: "a red heart", "three cats",
    /// "a pizza and a rocket".
    pub fn subject(&self) -> String {
        match &self.layout {
            Layout::Single { object, .. } | Layout::Free { object, .. } => object.with_article(),
            Layout::Copies { object, .. } => {
                format!("{} {}", NUMBERS[self.count()], object.plural())
            }
            Layout::Pair { first, second, .. } => {
                format!("{} and {}", first.with_article(), second.with_article())
            }
        }
    }

    /// One true caption. A large object in the middle is mostly just "a NAME on a COLOUR
    /// background"; anything else says its place, its size, its count or its relation.
    pub fn caption(&self) -> String {
        let what = match &self.layout {
            Layout::Single {
                object,
                place,
                size,
            } => {
                let name = object.name;
                let small_at = format!("a small {name} {}", place.phrase());
                match (size, self.wording % 8) {
                    (Size::Large, 0) => format!("a large {name}"),
                    (Size::Large, _) => object.with_article(),
                    (Size::Small, _) => small_at,
                    (Size::Medium, 0..4) => format!("{} {}", object.with_article(), place.phrase()),
                    (Size::Medium, _) => format!("a medium {name} {}", place.phrase()),
                }
            }
            Layout::Pair {
                first,
                second,
                relation,
            } => {
                let [first, second] = [first, second].map(Emoji::with_article);
                format!("{first} {} {second}", relation.phrase())
            }
            Layout::Copies { .. } | Layout::Free { .. } => self.subject(),
        };
        let background = self.background.with_article();
        // The usual form seven times in eight.
        match (self.wording >> 8) % 8 {
            0 => format!("{background} with {what}"),
            _ => format!("{what} on {background}"),
        }
    }

    /// Everything that may be asked about the scene. Gallery scenes have no questions.
    pub fn questions(&self) -> Vec<Question> {
        let mut all = Questions(Vec::new(), self.wording >> 16);
        if matches!(self.layout, Layout::Free { .. }) {
            return all.0;
        }
        let colour = self.background.name;
        all.ask(
            Kind::Object,
            &[
                "What is in this picture?",
                "What is this?",
                "What do you see?",
            ],
            &self.subject(),
        );
        all.ask(
            Kind::Colour,
            &[
                "What colour is the background?",
                "What color is the background?",
            ],
            colour,
        );
        match &self.layout {
            Layout::Single {
                object,
                place,
                size,
            } => {
                let name = object.name;
                all.ask(Kind::Count, &[&how_many(object)], "one");
                all.ask(
                    Kind::Place,
                    &[&format!("Where is the {name}?")],
                    place.phrase(),
                );
                all.ask(
                    Kind::Size,
                    &[&format!("How big is the {name}?")],
                    size.word(),
                );
            }
            Layout::Copies { object, .. } => {
                all.ask(Kind::Count, &[&how_many(object)], NUMBERS[self.count()]);
            }
            Layout::Pair {
                first,
                second,
                relation,
            } => {
                let (seen, from) = (relation.phrase(), relation.inverse().phrase());
                all.ask(
                    Kind::Relation,
                    &[&format!("What is {seen} the {}?", second.name)],
                    &first.with_article(),
                );
                all.ask(
                    Kind::Relation,
                    &[&format!("What is {from} the {}?", first.name)],
                    &second.with_article(),
                );
                all.ask(
                    Kind::Relation,
                    &[&format!("Where is the {}?", first.name)],
                    &format!("{seen} the {}", second.name),
                );
                all.ask(Kind::Count, &[&how_many(first)], "one");
            }
            Layout::Free { .. } => {}
        }
        self.yes_or_no(&mut all);
        all.0
    }

    /// One question about an object and one about the background; half of them are answered "no".
    fn yes_or_no(&self, all: &mut Questions) {
        let choice = self.wording >> 32;
        let here: Vec<Emoji> = self.placements().iter().map(|placed| placed.0).collect();
        let asked = if choice.is_multiple_of(2) {
            here[choice as usize / 2 % here.len()]
        } else {
            let list = emoji::inventory();
            list[stable_hash(&choice.to_string()) as usize % list.len()]
        };
        let answer = if here.contains(&asked) { "yes" } else { "no" };
        all.ask(
            Kind::YesNo,
            &[&format!(
                "Is there {} in this picture?",
                asked.with_article()
            )],
            answer,
        );
        let choice = choice >> 8;
        let asked = if choice.is_multiple_of(2) {
            self.background
        } else {
            COLOURS[choice as usize / 2 % COLOURS.len()]
        };
        let answer = if asked == self.background {
            "yes"
        } else {
            "no"
        };
        all.ask(
            Kind::YesNo,
            &[&format!("Is the background {}?", asked.name)],
            answer,
        );
    }
}

pub(super) fn how_many(object: &Emoji) -> String {
    format!("How many {} are there?", object.plural())
}

/// Questions gathered so far, and the choice of wording.
pub(super) struct Questions(pub Vec<Question>, pub u64);

impl Questions {
    pub(super) fn ask(&mut self, kind: Kind, wordings: &[&str], answer: &str) {
        self.0.push(Question {
            kind,
            question: wordings[self.1 as usize % wordings.len()].to_owned(),
            answer: answer.to_owned(),
        });
    }
}
