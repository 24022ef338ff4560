//! What can be said about a video: its caption, questions and their answers.

use super::{Kind, Motion, Question, Video, emoji, scene::COLOURS, stable_hash, words::Questions};

impl Motion {
    /// "moves left", "grows", "turns clockwise".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Left => "moves left",
            Self::Right => "moves right",
            Self::Up => "moves up",
            Self::Down => "moves down",
            Self::Grow => "grows",
            Self::Shrink => "shrinks",
            Self::Clockwise => "turns clockwise",
            Self::Anticlockwise => "turns anticlockwise",
        }
    }

    /// "Does it ...?"
    fn infinitive(self) -> &'static str {
        match self {
            Self::Left => "move left",
            Self::Right => "move right",
            Self::Up => "move up",
            Self::Down => "move down",
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::Clockwise => "turn clockwise",
            Self::Anticlockwise => "turn anticlockwise",
        }
    }

    /// "moves": the verb alone.
    fn verb(self) -> &'static str {
        let phrase = self.phrase();
        phrase.split_once(' ').map_or(phrase, |(verb, _)| verb)
    }
}

impl Video {
    /// One true caption: mostly "a NAME MOVES on a COLOUR background".
    pub fn caption(&self) -> String {
        let (background, motion) = (self.background.with_article(), self.motion.phrase());
        let object = self.object.with_article();
        // The usual form seven times in eight, as of scenes.
        match (self.wording >> 8) % 8 {
            0 => format!("{background} with {object} that {motion}"),
            _ => format!("{object} {motion} on {background}"),
        }
    }

    /// Everything that may be asked about the video.
    pub fn questions(&self) -> Vec<Question> {
        let mut all = Questions(Vec::new(), self.wording >> 16);
        let (name, motion) = (self.object.name, self.motion);
        all.ask(
            Kind::Object,
            &[
                "What is in this video?",
                &format!("What {}?", motion.verb()),
            ],
            &self.object.with_article(),
        );
        all.ask(
            Kind::Colour,
            &[
                "What colour is the background?",
                "What color is the background?",
            ],
            self.background.name,
        );
        all.ask(
            Kind::Motion,
            &[
                "What happens in this video?",
                &format!("What does the {name} do?"),
            ],
            &format!("it {}", motion.phrase()),
        );
        let (question, answer) = match motion {
            Motion::Left => (format!("Which way does the {name} move?"), "left"),
            Motion::Right => (format!("Which way does the {name} move?"), "right"),
            Motion::Up => (format!("Which way does the {name} move?"), "up"),
            Motion::Down => (format!("Which way does the {name} move?"), "down"),
            Motion::Grow => (format!("Does the {name} grow or shrink?"), "it grows"),
            Motion::Shrink => (format!("Does the {name} grow or shrink?"), "it shrinks"),
            Motion::Clockwise => (format!("Which way does the {name} turn?"), "clockwise"),
            Motion::Anticlockwise => (format!("Which way does the {name} turn?"), "anticlockwise"),
        };
        all.ask(Kind::Direction, &[&question], answer);
        self.yes_or_no(&mut all);
        all.0
    }

    /// A question each about motion, object and background; half of them are answered "no".
    fn yes_or_no(&self, all: &mut Questions) {
        // One choice of eight bits for each question: whether it is what is there, and else what.
        let choices = stable_hash(&self.wording.to_string());
        let choice = |at: u32| (choices >> (16 * at)) as usize % 65_536;
        fn other<T: Copy + PartialEq>(list: &[T], own: T, choice: usize) -> T {
            let others: Vec<T> = list.iter().copied().filter(|one| *one != own).collect();
            if choice.is_multiple_of(2) {
                own
            } else {
                others[choice / 2 % others.len()]
            }
        }
        let mut ask = |question: String, yes: bool| {
            all.ask(Kind::YesNo, &[&question], if yes { "yes" } else { "no" });
        };
        let motion = other(&Motion::ALL, self.motion, choice(0));
        let name = self.object.name;
        ask(
            format!("Does the {name} {}?", motion.infinitive()),
            motion == self.motion,
        );
        let object = other(emoji::inventory(), self.object, choice(1));
        ask(
            format!("Is there {} in this video?", object.with_article()),
            object == self.object,
        );
        let colour = other(&COLOURS, self.background, choice(2));
        ask(
            format!("Is the background {}?", colour.name),
            colour == self.background,
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::nano::{Split, emoji::named};

    #[test]
    fn what_is_said_is_true() {
        let video = Video {
            object: *named("octopus").unwrap(),
            background: COLOURS[1],
            motion: Motion::Anticlockwise,
            wording: 1 << 8,
        };
        let caption = "an octopus turns anticlockwise on an orange background";
        assert_eq!(video.caption(), caption);
        let asked = video.questions();
        let of = |kind| asked.iter().find(|asked| asked.kind == kind).unwrap();
        assert_eq!(of(Kind::Object).answer, "an octopus");
        assert_eq!(of(Kind::Motion).answer, "it turns anticlockwise");
        assert_eq!(
            of(Kind::Direction).question,
            "Which way does the octopus turn?"
        );
        assert_eq!(of(Kind::Direction).answer, "anticlockwise");

        // Yes is as frequent as no, and what is answered with yes is in the caption.
        let (mut yes, mut all) = (0, 0);
        for index in 0..200 {
            let video = Video::sample(Split::Train, 5, index);
            for asked in video.questions() {
                if asked.kind == Kind::YesNo {
                    all += 1;
                    yes += usize::from(asked.answer == "yes");
                }
            }
        }
        assert!((all * 2 / 5..all * 3 / 5).contains(&yes), "{yes} of {all}");
    }
}
