//! Rules by which replies are right or wrong.

use serde_json::{Map, Value};

use super::{Item, vqa};
use crate::{
    Error, Result,
    evaluation::{
        metrics::{bootstrap, mean, share},
        record::{Interval, Metric},
    },
};

/// A rule that scores replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerMetric {
    /// One of the answers, whatever the case, punctuation and spaces.
    ExactMatch,
    /// [VQA accuracy](https://visualqa.org/evaluation.html): of people's answers, usually ten.
    Vqa,
    /// Questions whose answer is yes or no, as of POPE and MME.
    YesNo,
    /// Questions with choices.
    MultipleChoice,
}

/// With fewer answers no reply can be wholly right: three others of those who answered have to agree.
const LEAST_VQA_ANSWERS: usize = 4;

const LETTERS: std::ops::RangeInclusive<char> = 'A'..='Z';

impl AnswerMetric {
    pub const ALL: [Self; 4] = [
        Self::ExactMatch,
        Self::Vqa,
        Self::YesNo,
        Self::MultipleChoice,
    ];

    /// As on the command line: "exact-match".
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact-match",
            Self::Vqa => "vqa",
            Self::YesNo => "yes-no",
            Self::MultipleChoice => "multiple-choice",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let all = Self::ALL.into_iter().find(|metric| metric.name() == name);
        all.ok_or_else(|| Error::usage(format!("there is no metric of the name {name}")))
    }

    /// What follows a question, as in LLaVA-1.5's evaluation (arXiv 2310.03744), whose prompts VILA's took over.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::MultipleChoice => {
                "Answer with the option's letter from the given choices directly."
            }
            _ => "Answer the question using a single word or phrase.",
        }
    }

    /// What exactly is measured.
    pub fn definition(self) -> &'static str {
        match self {
            Self::ExactMatch => {
                "the reply is one of the answers; letter case, ASCII punctuation and spaces do not count"
            }
            Self::Vqa => {
                "mean over all choices of all people but one of min(1, people who gave the reply / 3), replies and answers \
                 normalised as in VQA's official evaluation"
            }
            Self::YesNo => {
                "a reply whose first sentence has the word no, No or not is a no, any other a yes, as in POPE's official \
                 evaluation; precision, recall and F1 are of yes; unclear replies begin with neither yes nor no"
            }
            Self::MultipleChoice => {
                "the reply is the right option's letter (B, (B), B. or B: and what follows) or its text; other replies are \
                 wrong and counted as unclear"
            }
        }
    }

    /// Refuses items that this metric cannot score.
    pub fn check(self, items: &[Item]) -> Result<()> {
        let wrong = |item: &Item| match self {
            Self::ExactMatch => None,
            Self::Vqa if item.answers.len() < LEAST_VQA_ANSWERS => Some(format!(
                "VQA accuracy needs {LEAST_VQA_ANSWERS} answers or more, of as many people"
            )),
            Self::Vqa => None,
            Self::YesNo => expects_yes(item).err(),
            Self::MultipleChoice => right_choice(item).err(),
        };
        match items.iter().find_map(|item| Some((item, wrong(item)?))) {
            Some((item, reason)) => {
                let id = &item.id;
                Err(Error::usage(format!(
                    "--metric {}: question {id}: {reason}",
                    self.name()
                )))
            }
            None => Ok(()),
        }
    }

    /// The numbers of one reply to an item that passed [`Self::check`].
    pub fn score(self, item: &Item, reply: &str) -> Map<String, Value> {
        let mut values = Map::new();
        let mut set = |name: &str, value: f64| values.insert(name.into(), value.into());
        let right = |right: bool| f64::from(u8::from(right));
        match self {
            Self::ExactMatch => {
                let reply = plain(reply);
                let found = item.answers.iter().any(|answer| plain(answer) == reply);
                set("accuracy", right(found));
            }
            Self::Vqa => {
                set("accuracy", vqa::accuracy(reply, &item.answers));
            }
            Self::YesNo => {
                let (expected, yes) = (expects_yes(item) == Ok(true), says_yes(reply));
                set("accuracy", right(yes == expected));
                set("yes", right(yes));
                set("expected_yes", right(expected));
                set("unclear", right(is_unclear(reply)));
            }
            Self::MultipleChoice => {
                let chosen = choice(&item.choices, reply);
                set(
                    "accuracy",
                    right(chosen.is_some() && chosen == right_choice(item).ok()),
                );
                set("unclear", right(chosen.is_none()));
            }
        }
        values
    }

    /// The metrics of all replies by their numbers.
    pub fn summary(self, scores: &[Map<String, Value>]) -> Vec<Metric> {
        let of = |name: &str| -> Vec<f64> {
            let values = scores
                .iter()
                .map(|score| score.get(name).and_then(Value::as_f64));
            values.map(Option::unwrap_or_default).collect()
        };
        let count = |values: &[f64]| values.iter().filter(|value| **value > 0.0).count();
        let part = |name: &str, values: &[f64]| {
            Metric::estimate(name, share(count(values), values.len()), Interval::Wilson)
        };
        let accuracy = of("accuracy");
        match self {
            Self::ExactMatch => vec![part("accuracy", &accuracy)],
            Self::Vqa => vec![Metric::estimate(
                "accuracy",
                mean(&accuracy),
                Interval::Bootstrap,
            )],
            Self::MultipleChoice => {
                vec![part("accuracy", &accuracy), part("unclear", &of("unclear"))]
            }
            Self::YesNo => {
                let (yes, expected) = (of("yes"), of("expected_yes"));
                let both = |index: &usize| yes[*index] * expected[*index];
                let among = |chosen: &[f64]| -> Vec<f64> {
                    let indices = (0..chosen.len()).filter(|index| chosen[*index] > 0.0);
                    indices.map(|index| both(&index)).collect()
                };
                let f1 = bootstrap(scores.len(), |sample| {
                    let both: f64 = sample.iter().map(both).sum();
                    let either: f64 = sample
                        .iter()
                        .map(|index| yes[*index] + expected[*index])
                        .sum();
                    if either > 0.0 {
                        2.0 * both / either
                    } else {
                        0.0
                    }
                });
                let mut metrics = vec![part("accuracy", &accuracy)];
                // Of no yes at all there is neither.
                for (name, values) in [("precision", among(&yes)), ("recall", among(&expected))] {
                    metrics.extend((!values.is_empty()).then(|| part(name, &values)));
                }
                metrics.push(Metric::estimate("f1", f1, Interval::Bootstrap));
                metrics.push(part("yes", &yes));
                metrics.push(part("unclear", &of("unclear")));
                metrics
            }
        }
    }
}

/// A question with its choices below each other, each with its letter.
pub(super) fn with_choices(question: &str, choices: &[String]) -> String {
    let options = LETTERS
        .zip(choices)
        .map(|(letter, choice)| format!("\n{letter}. {choice}"));
    question.to_string() + &options.collect::<String>()
}

/// Words in small letters without punctuation.
fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = text.to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn expects_yes(item: &Item) -> std::result::Result<bool, String> {
    match item
        .answers
        .iter()
        .map(|answer| plain(answer))
        .collect::<Vec<_>>()
        .as_slice()
    {
        [answer] if answer == "yes" => Ok(true),
        [answer] if answer == "no" => Ok(false),
        _ => Err(format!(
            "its answer is neither yes nor no, but {:?}",
            item.answers.join(", ")
        )),
    }
}

fn says_yes(reply: &str) -> bool {
    let sentence = reply.split('.').next().unwrap_or_default().replace(',', "");
    !sentence
        .split(' ')
        .any(|word| ["No", "no", "not"].contains(&word))
}

fn is_unclear(reply: &str) -> bool {
    let words = plain(reply);
    !["yes", "no"].contains(&words.split(' ').next().unwrap_or_default())
}

fn right_choice(item: &Item) -> std::result::Result<usize, String> {
    let letters = LETTERS.count();
    if !(2..=letters).contains(&item.choices.len()) {
        return Err(format!(
            "it has {} choices: give 2 to {letters}",
            item.choices.len()
        ));
    }
    let [answer] = item.answers.as_slice() else {
        return Err("it has several answers: give the right choice alone".into());
    };
    let same = item.choices.iter().position(|choice| choice == answer);
    same.or_else(|| choice(&item.choices, answer))
        .ok_or_else(|| format!("its answer {answer:?} is none of its choices"))
}

/// Which of the choices a reply is.
fn choice(choices: &[String], reply: &str) -> Option<usize> {
    let text = plain(reply);
    if let Some(same) = choices.iter().position(|choice| plain(choice) == text) {
        return Some(same);
    }
    let mut rest = reply.trim().trim_start_matches('(').chars();
    let letter = rest.next()?.to_ascii_uppercase();
    let ends = rest
        .next()
        .is_none_or(|next| matches!(next, ')' | '.' | ':' | ',' | '\n'));
    LETTERS
        .take(choices.len())
        .position(|known| ends && known == letter)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn item(answers: &[&str], choices: &[&str]) -> Item {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        Item {
            id: "1".into(),
            media: Vec::new(),
            question: "What is it?".into(),
            answers: texts(answers),
            choices: texts(choices),
        }
    }

    fn summary(metric: AnswerMetric, replies: &[(&str, Item)]) -> Vec<(String, f64)> {
        let scores: Vec<_> = replies
            .iter()
            .map(|(reply, item)| metric.score(item, reply))
            .collect();
        let metrics = metric.summary(&scores).into_iter();
        metrics.map(|metric| (metric.name, metric.value)).collect()
    }

    #[test]
    fn exact_matches_have_any_case_and_punctuation() {
        let metric = AnswerMetric::ExactMatch;
        let accuracy =
            |reply| metric.score(&item(&["a cat", "Dog"], &[]), reply)["accuracy"].as_f64();
        for (reply, expected) in [("A  cat.", 1.0), ("dog", 1.0), ("cat", 0.0), ("", 0.0)] {
            assert_eq!(accuracy(reply), Some(expected), "{reply}");
        }
    }

    #[test]
    fn yes_and_no_are_counted_as_pope_counts_them() {
        let (yes, no) = (item(&["yes"], &[]), item(&["No"], &[]));
        let replies = [
            ("Yes", yes.clone()),
            ("Yes, it is not far.", yes.clone()),
            ("yes. There is no doubt", yes.clone()),
            ("no", no.clone()),
            ("There is not.", no.clone()),
            ("a cat", no),
        ];
        let named = |metrics: &[(String, f64)], name: &str| {
            metrics
                .iter()
                .find(|(found, _)| found == name)
                .map(|(_, value)| *value)
        };
        let metrics = summary(AnswerMetric::YesNo, &replies);
        // Said yes: 1, 3, 6; expected: 1, 2, 3.
        for (name, expected) in [
            ("accuracy", 4.0 / 6.0),
            ("precision", 2.0 / 3.0),
            ("recall", 2.0 / 3.0),
            ("f1", 2.0 / 3.0),
            ("yes", 0.5),
            ("unclear", 2.0 / 6.0),
        ] {
            let value = named(&metrics, name).unwrap();
            assert!((value - expected).abs() < 1e-12, "{name} {value}");
        }
        let metrics = summary(AnswerMetric::YesNo, &[("no", yes)]);
        assert_eq!(named(&metrics, "precision"), None);
        assert_eq!(named(&metrics, "recall"), Some(0.0));
        assert_eq!(named(&metrics, "f1"), Some(0.0));
        assert!(AnswerMetric::YesNo.check(&[item(&["maybe"], &[])]).is_err());
    }

    #[test]
    fn choices_are_letters_or_their_text() {
        let choices = ["a cat", "a dog", "B"];
        let asked = item(&["B"], &choices);
        // The text of a choice comes before its letter.
        assert_eq!(right_choice(&asked), Ok(2));
        for (reply, expected) in [
            ("A", Some(0)),
            ("(A)", Some(0)),
            ("a. a cat", Some(0)),
            ("A: because", Some(0)),
            ("A dog", Some(1)),
            ("B", Some(2)),
            ("C", Some(2)),
            ("D", None),
            ("A bird", None),
            ("", None),
        ] {
            assert_eq!(choice(&asked.choices, reply), expected, "{reply}");
        }
        assert_eq!(
            with_choices("What?", &asked.choices),
            "What?\nA. a cat\nB. a dog\nC. B"
        );
        let metric = AnswerMetric::MultipleChoice;
        assert!(metric.check(&[item(&["A"], &["one"])]).is_err());
        assert!(metric.check(&[item(&["E"], &choices)]).is_err());
        assert!(metric.check(&[item(&["A", "B"], &choices)]).is_err());
        assert!(metric.check(&[item(&["A"], &choices)]).is_ok());
        assert!(AnswerMetric::Vqa.check(&[item(&["A"; 3], &[])]).is_err());
    }
}
