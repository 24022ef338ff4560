//! What a judge says, a dictionary such as `{'pred': 'yes', 'score': 4}`.

use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Verdict {
    /// Whether the reply is right.
    pub right: bool,
    /// 0..5, as it was given.
    pub score: f64,
}

impl Verdict {
    /// Reads the first dictionary in a reply, in JSON or as Python writes it, whatever stands around it. None where there
    /// is no yes or no and no score from 0 to 5 in it.
    pub fn parse(reply: &str) -> Option<Self> {
        let (_, rest) = reply.split_once('{')?;
        let (inside, _) = rest.split_once('}')?;
        let text = format!("{{{inside}}}");
        let values: Map<String, Value> = serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(&text.replace('\'', "\"")))
            .ok()?;
        Self::from_values(&values)
    }

    /// From `pred` and `score`.
    pub fn from_values(values: &Map<String, Value>) -> Option<Self> {
        let pred = values.get("pred")?.as_str()?.to_lowercase();
        let right = match (pred.contains("yes"), pred.contains("no")) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => return None,
        };
        let score = match values.get("score")? {
            Value::String(text) => text.trim().parse().ok()?,
            value => value.as_f64()?,
        };
        (0.0..=5.0)
            .contains(&score)
            .then_some(Self { right, score })
    }

    pub fn values(self) -> Map<String, Value> {
        let pred = if self.right { "yes" } else { "no" };
        Map::from_iter([
            ("pred".into(), pred.into()),
            ("score".into(), self.score.into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_of_python_and_json_are_read() {
        for (reply, right, score) in [
            ("{'pred': 'yes', 'score': 4}", true, 4.0),
            ("{\"pred\": \"No\", \"score\": \"0\"}", false, 0.0),
            ("```python\n{'pred': 'yes.', 'score': 4.8}\n```", true, 4.8),
            ("Here it is: {'score': 5, 'pred': \"yes\"}. {", true, 5.0),
        ] {
            let verdict = Verdict::parse(reply);
            assert_eq!(verdict, Some(Verdict { right, score }), "{reply}");
            let again = verdict.and_then(|verdict| Verdict::from_values(&verdict.values()));
            assert_eq!(again, verdict);
        }
    }

    #[test]
    fn anything_else_is_no_verdict() {
        for reply in [
            "",
            "yes, 4",
            "{'pred': 'yes'}",
            "{'pred': 'maybe', 'score': 3}",
            "{'pred': 'yes', 'score': 6}",
            "{'pred': 'yes', 'score': NaN}",
            "{'pred': 'yes', 'score': -1}",
            "{'pred': 'yes', 'score': 4",
            "{{'pred': 'yes', 'score': 4}}",
        ] {
            assert_eq!(Verdict::parse(reply), None, "{reply}");
        }
    }
}
