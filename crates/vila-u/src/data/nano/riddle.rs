//! Questions that need no picture: what kind of thing an object is, how many there are then, and
//! what a relation is seen from the other side.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    Kind, Question, Relation, Split, emoji,
    emoji::Emoji,
    scene::{pick, rng},
    words::{NUMBERS, how_many},
};

/// What kind of thing an object is, and the objects that are clearly one.
const CATEGORIES: [(&str, &str); 4] = [
    ("an animal", "🐕🐈🐻🐼🦁🐄🐖🐸🐧🦆🦉🦊🐘🐢🐳🐙🦀🦋🐝"),
    ("food", "🍎🍌🍋🍓🍉🍍🍅🥕🍕🍔🍩🍪🎂"),
    ("a plant", "🌵🌹🌻🌳"),
    ("a vehicle", "🚀🚁🚲🚌🚗⛵"),
];

/// Question `index` of a split: the same for the same arguments, always. One in ten is held out.
pub fn riddle(split: Split, seed: u64, index: u64) -> Question {
    let mut rng = rng("riddle", split, seed, index);
    loop {
        let found = match rng.random_range(0..3_u32) {
            0 => category(&mut rng),
            1 => arithmetic(&mut rng),
            _ => inverse(&mut rng),
        };
        if Split::of(&found.question, 10) == split {
            return found;
        }
    }
}

/// "Is a fox an animal?" and "What kind of thing is a fox?"
fn category(rng: &mut ChaCha8Rng) -> Question {
    let (own, members) = *pick(rng, &CATEGORIES);
    let members: Vec<&Emoji> = (emoji::inventory().iter())
        .filter(|emoji| members.contains(emoji.character))
        .collect();
    let object = pick(rng, &members).with_article();
    let (question, answer) = match rng.random_range(0..3_u32) {
        0 => (format!("Is {object} {own}?"), "yes"),
        1 => {
            let (other, _) = *pick(rng, &CATEGORIES);
            let answer = if other == own { "yes" } else { "no" };
            (format!("Is {object} {other}?"), answer)
        }
        _ => (format!("What kind of thing is {object}?"), own),
    };
    Question {
        kind: Kind::Category,
        question,
        answer: answer.to_owned(),
    }
}

/// "There are two foxes. One more comes. How many foxes are there?", and one goes.
fn arithmetic(rng: &mut ChaCha8Rng) -> Question {
    let object = pick(rng, emoji::inventory());
    let [before, after] = [(); 2].map(|()| rng.random_range(1..5_u32) as usize);
    let change = before.abs_diff(after);
    let there = match before {
        1 => format!("There is one {}.", object.name),
        _ => format!("There are {} {}.", NUMBERS[before], object.plural()),
    };
    let then = match (after > before, change) {
        (_, 0) => "None comes and none goes.".to_owned(),
        (true, 1) => "One more comes.".to_owned(),
        (false, 1) => "One goes.".to_owned(),
        (true, _) => format!("{} more come.", capital(NUMBERS[change])),
        (false, _) => format!("{} go.", capital(NUMBERS[change])),
    };
    Question {
        kind: Kind::Arithmetic,
        question: format!("{there} {then} {}", how_many(object)),
        answer: NUMBERS[after].to_owned(),
    }
}

/// "A dog is above a cat. Where is the cat?": "below the dog".
fn inverse(rng: &mut ChaCha8Rng) -> Question {
    const RELATIONS: [Relation; 4] = [
        Relation::LeftOf,
        Relation::RightOf,
        Relation::Above,
        Relation::Below,
    ];
    let relation = *pick(rng, &RELATIONS);
    let first = pick(rng, emoji::inventory());
    let others: Vec<&Emoji> = (emoji::inventory().iter())
        .filter(|other| *other != first)
        .collect();
    let second = pick(rng, &others);
    Question {
        kind: Kind::Inverse,
        question: format!(
            "{} is {} {}. Where is the {}?",
            capital(&first.with_article()),
            relation.phrase(),
            second.with_article(),
            second.name
        ),
        answer: format!("{} the {}", relation.inverse().phrase(), first.name),
    }
}

/// With a capital first letter.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn answers_follow_from_the_question_alone() {
        let mut answers = std::collections::HashMap::new();
        let mut seen = HashSet::new();
        for index in 0..1500 {
            let asked = riddle(Split::Train, 1, index);
            let before = answers.insert(asked.question.clone(), asked.answer.clone());
            assert!(before.is_none_or(|before| before == asked.answer));
            if asked.kind == Kind::Arithmetic {
                // Counted again from the words.
                let number = |word: &str| {
                    let of = |name: &&str| name.eq_ignore_ascii_case(word);
                    NUMBERS.iter().position(of).unwrap_or(0) as i32
                };
                let words: Vec<&str> = asked.question.split(' ').collect();
                let change = asked.question.split(". ").nth(1).unwrap_or_default();
                let by = number(change.split(' ').next().unwrap_or_default());
                let by = if change.contains("more") { by } else { -by };
                assert_eq!(number(words[2]) + by, number(&asked.answer), "{asked:?}");
            }
            seen.insert(asked.question);
        }
        for index in 0..200 {
            let [validation, test] =
                [Split::Validation, Split::Test].map(|split| riddle(split, 1, index).question);
            assert!(!seen.contains(&validation) && !seen.contains(&test) && validation != test);
        }
    }

    #[test]
    fn categories_are_of_objects_that_there_are() {
        let members = CATEGORIES.map(|(_, members)| members).concat();
        let there = emoji::inventory()
            .iter()
            .filter(|emoji| members.contains(emoji.character));
        assert_eq!(there.count(), members.chars().count());
    }
}
