//! Numbers as clients really send them: whole numbers as `32.0`, and nothing at all as `null`.

use std::fmt;

use serde::{
    Deserializer,
    de::{Error, Visitor},
};

/// A seed; -1, which many clients send for a random one, is none. Other negative numbers are those of the same bits.
pub fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seed = |number: i128| {
        let negative = || i64::try_from(number).map(i64::cast_unsigned);
        let seed = u64::try_from(number).or_else(|_| negative());
        seed.map_err(|_| D::Error::custom("must be a whole number of 64 bits"))
    };
    let number = deserializer.deserialize_any(Integer)?;
    number.filter(|number| *number != -1).map(seed).transpose()
}

/// A count or a size. What is too large for this machine is the largest that is not.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match deserializer.deserialize_any(Integer)? {
        Some(..0) => Err(D::Error::custom("must be 0 or more")),
        number => Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX))),
    }
}

/// The same for how much there may be, where -1 says that there is no limit, as llama.cpp has it.
pub fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match deserializer.deserialize_any(Integer)? {
        None | Some(-1) => Ok(None),
        Some(..1) => Err(D::Error::custom("must be at least 1")),
        number => Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX))),
    }
}

struct Integer;

impl Visitor<'_> for Integer {
    type Value = Option<i128>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        if number.fract() == 0.0 {
            Ok(Some(number as i128))
        } else {
            Err(E::custom(format!("{number} is not a whole number")))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Numbers {
        #[serde(default, deserialize_with = "super::seed")]
        seed: Option<u64>,
        #[serde(default, deserialize_with = "super::count")]
        n: Option<usize>,
        #[serde(default, deserialize_with = "super::limit")]
        max_tokens: Option<usize>,
    }

    #[test]
    fn whole_numbers_of_every_spelling() {
        let read = |text: &str| serde_json::from_str::<Numbers>(text);
        for text in [r#"{"seed": 7, "n": 2.0}"#, r#"{"seed": 7.0, "n": 2}"#] {
            let numbers = read(text).unwrap();
            assert_eq!((numbers.seed, numbers.n), (Some(7), Some(2)));
        }
        let none = read(r#"{"seed": null, "more": 1}"#).unwrap();
        assert_eq!((none.seed, none.n, none.max_tokens), (None, None, None));
        let none = read(r#"{"seed": -1, "max_tokens": -1}"#).unwrap();
        assert_eq!((none.seed, none.max_tokens), (None, None));
        for (text, seed) in [
            ("18446744073709551615", u64::MAX),
            ("1e16", 10_u64.pow(16)),
            ("-2", u64::MAX - 1),
        ] {
            let numbers = read(&format!("{{\"seed\": {text}}}")).unwrap();
            assert_eq!(numbers.seed, Some(seed), "{text}");
        }
        for large in ["18446744073709551615", "1e16", "1e300"] {
            let text = format!("{{\"n\": {large}, \"max_tokens\": {large}}}");
            let numbers = read(&text).unwrap();
            assert!(numbers.n > Some(1 << 31) && numbers.max_tokens > Some(1 << 31));
        }
        for text in [
            r#"{"n": -1}"#,
            r#"{"n": 1.5}"#,
            r#"{"n": "1"}"#,
            r#"{"seed": 1e300}"#,
            r#"{"max_tokens": 0}"#,
            r#"{"max_tokens": -2}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
