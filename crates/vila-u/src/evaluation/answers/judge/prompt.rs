//! What a judge is asked.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Case;
use crate::{Error, Result, evaluation::record::hex, media::read_file};

const SYSTEM: &str = "\
You grade answers to questions about videos. You get a question, the correct answer and a predicted answer, and decide \
whether the predicted answer means the same as the correct one. Synonyms and paraphrases are right, and more words than \
needed are no mistake.";

const USER: &str = "\
Question: {question}
Correct answer: {answer}
Predicted answer: {prediction}

Reply with a dictionary and nothing else. Its key 'pred' is 'yes' if the predicted answer is right and 'no' if it is \
wrong; its key 'score' is a whole number from 0, nothing of it is right, to 5, all of it is. For example: \
{'pred': 'no', 'score': 1}";

/// The messages of a judge's request, with `{question}`, `{answer}` and `{prediction}` in their places.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct JudgePrompt(Vec<Message>);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    content: String,
}

impl Default for JudgePrompt {
    /// In our own words; those of Video-ChatGPT's authors are in their script, from which `tools/eval/judge_prompt.py`
    /// takes them.
    fn default() -> Self {
        let message = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
        };
        Self(vec![message("system", SYSTEM), message("user", USER)])
    }
}

impl JudgePrompt {
    /// Reads a JSON array of messages, each with `role` and `content`.
    ///
    /// Errors when it is none, or leaves out one of the three places.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_file(path)?;
        let prompt: Self = serde_json::from_slice(&text).map_err(|error| {
            Error::invalid(
                path,
                format!("no list of messages with role and content: {error}"),
            )
        })?;
        for place in Case::PLACES {
            let has = |message: &Message| message.content.contains(&format!("{{{place}}}"));
            if !prompt.0.iter().any(has) {
                return Err(Error::invalid(
                    path,
                    format!("{{{place}}} stands in no message"),
                ));
            }
        }
        Ok(prompt)
    }

    /// SHA-256 of its messages.
    pub(super) fn sha256(&self) -> String {
        let empty = Case::PLACES.map(|place| format!("{{{place}}}"));
        let [question, answer, prediction] = empty.each_ref().map(String::as_str);
        let messages = self.messages(&Case {
            question,
            answer,
            prediction,
        });
        hex(Sha256::new().chain_update(messages.to_string()))
    }

    pub(super) fn messages(&self, case: &Case) -> Value {
        let message = |message: &Message| json!({"role": message.role, "content": case.fill(&message.content)});
        self.0.iter().map(message).collect()
    }
}

impl Case<'_> {
    const PLACES: [&'static str; 3] = ["question", "answer", "prediction"];

    /// The text with this case in its places. What stands there is not looked at again.
    fn fill(&self, text: &str) -> String {
        let values = [self.question, self.answer, self.prediction];
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            filled += before;
            let place = Self::PLACES.iter().zip(values).find_map(|(place, value)| {
                let after = after.strip_prefix(place)?.strip_prefix('}')?;
                Some((value, after))
            });
            match place {
                Some((value, after)) => {
                    filled += value;
                    rest = after;
                }
                None => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled + rest
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once() {
        let case = Case {
            question: "What is {answer}?",
            answer: "{'a'}",
            prediction: "",
        };
        let filled = case.fill("{question}|{answer}|{prediction}|{other}|{'pred': 1}|{");
        assert_eq!(filled, "What is {answer}?|{'a'}||{other}|{'pred': 1}|{");
        let messages = JudgePrompt::default().messages(&case);
        let user = messages[1]["content"].as_str().unwrap();
        assert!(user.starts_with("Question: What is {answer}?\nCorrect answer: {'a'}\n"));
    }

    #[test]
    fn prompts_of_files_have_all_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            JudgePrompt::read(&path)
        };
        let good = r#"[{"role": "user", "content": "{question} {answer} {prediction}"}]"#;
        let prompt = read(good).unwrap();
        assert_ne!(prompt.sha256(), JudgePrompt::default().sha256());
        for (text, expected) in [
            ("Grade this", "no list of messages"),
            (r#"[{"role": "user", "text": "x"}]"#, "unknown field"),
            (
                &good.replace("{answer}", ""),
                "{answer} stands in no message",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
