//! VQA accuracy: how far ten people agree with an answer, after its words are brought to one form.
//!
//! As the official evaluation, <https://github.com/GT-Vision-Lab/VQA> (`vqaEval.py`; Antol et al., arXiv 1505.00468), which
//! however takes the people's answers as they are where all agree, and their numbers and articles always. lmms-eval brings
//! them to the same form as the reply, and so does this.

/// In this order, as one removal makes room for the next.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Words that are also found with one of their apostrophes missing. What the official list does not have (`I'm`, `we're`)
/// is not here either.
const CONTRACTIONS: &str = "\
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't \
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't \
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's \
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's \
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've \
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've \
    there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've 'ow's'at";

/// The part of the people who gave the answer `reply`, three of whom are enough: the mean over all choices of nine of
/// the ten, as in the official evaluation. 0..1.
pub(super) fn accuracy(reply: &str, answers: &[String]) -> f64 {
    let reply = normalize(reply);
    let same: Vec<bool> = answers
        .iter()
        .map(|answer| normalize(answer) == reply)
        .collect();
    let matching = same.iter().filter(|same| **same).count();
    let without = |one: &bool| ((matching - usize::from(*one)) as f64 / 3.0).min(1.0);
    same.iter().map(without).sum::<f64>() / same.len().max(1) as f64
}

/// An answer with its punctuation, articles, numbers and contractions in one form.
pub(super) fn normalize(answer: &str) -> String {
    let text = answer.replace(['\n', '\t'], " ");
    let text = without_periods(&without_punctuation(text.trim())).to_lowercase();
    let words = text.split_whitespace().map(word);
    let words: Vec<&str> = words
        .filter(|word| !["a", "an", "the"].contains(word))
        .collect();
    words.join(" ")
}

/// A mark beside a space, or in a text with a number such as 1,000, goes; between words it becomes a space.
fn without_punctuation(text: &str) -> String {
    let bytes = text.as_bytes();
    let thousands = bytes
        .windows(3)
        .any(|three| three[1] == b',' && three[0].is_ascii_digit() && three[2].is_ascii_digit());
    let mut out = text.to_string();
    for mark in PUNCTUATION {
        let beside_space = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        out = out.replace(mark, if beside_space || thousands { "" } else { " " });
    }
    out
}

/// Periods go unless a digit follows.
fn without_periods(text: &str) -> String {
    let following = text.chars().skip(1).chain([' ']);
    let kept = text.chars().zip(following);
    let kept = kept.filter(|(c, next)| *c != '.' || next.is_ascii_digit());
    kept.map(|(c, _)| c).collect()
}

fn word(word: &str) -> &str {
    if let Some((_, digits)) = NUMBERS.iter().find(|(name, _)| *name == word) {
        return digits;
    }
    let mut contractions = CONTRACTIONS.split_whitespace();
    let whole = contractions.find(|whole| lacks_an_apostrophe(word, whole));
    whole.unwrap_or(word)
}

/// Whether `word` is the contraction without one of its apostrophes.
fn lacks_an_apostrophe(word: &str, whole: &str) -> bool {
    let apostrophes = |text: &str| text.matches('\'').count();
    let letters = |text: &str| text.replace('\'', "");
    apostrophes(word) + 1 == apostrophes(whole) && letters(word) == letters(whole)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What `tools/record_answers.py` wrote.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Recorded {
        Text {
            text: String,
            normalized: String,
        },
        Case {
            reply: String,
            answers: Vec<String>,
            accuracy: f64,
        },
    }

    #[test]
    fn as_lmms_eval_recorded_it() {
        let recorded = include_str!("../../../tests/answers/vqa.jsonl").lines();
        let recorded = recorded.map(|line| serde_json::from_str(line).unwrap());
        let mut counts = [0; 2];
        for one in recorded {
            match one {
                Recorded::Text { text, normalized } => {
                    assert_eq!(normalize(&text), normalized, "{text:?}");
                    counts[0] += 1;
                }
                Recorded::Case {
                    reply,
                    answers,
                    accuracy: expected,
                } => {
                    let ours = accuracy(&reply, &answers);
                    assert!(
                        (ours - expected).abs() < 1e-9,
                        "{reply:?} {answers:?}: {ours} {expected}"
                    );
                    counts[1] += 1;
                }
            }
        }
        assert!(counts[0] > 500 && counts[1] > 40, "{counts:?}");
    }

    #[test]
    fn words_have_one_form() {
        for (answer, expected) in [
            ("A Cat.", "cat"),
            ("the  two dogs", "2 dogs"),
            ("None", "0"),
            ("1,000 people", "1000 people"),
            ("red/white", "red white"),
            ("red / white", "red white"),
            ("3.5 m.", "3.5 m"),
            ("dont know", "don't know"),
            ("yall'd've", "y'all'd've"),
            ("twas", "'twas"),
            ("t-shirt!\n", "t shirt"),
            ("cat's", "cat's"),
        ] {
            assert_eq!(normalize(answer), expected, "{answer}");
        }
    }

    #[test]
    fn three_people_of_ten_are_enough() {
        let answers = |right: usize| -> Vec<String> {
            (0..10)
                .map(|n| if n < right { "Two" } else { "many" }.into())
                .collect()
        };
        let score = |right| accuracy("two.", &answers(right));
        assert_eq!([score(0), score(4), score(10)], [0.0, 1.0, 1.0]);
        // Of the ten choices of nine people, one of n leaves each of the right ones out once.
        assert!((score(1) - 0.3).abs() < 1e-12, "{}", score(1));
        assert!((score(2) - 0.6).abs() < 1e-12, "{}", score(2));
        assert!((score(3) - 0.9).abs() < 1e-12, "{}", score(3));
    }
}
