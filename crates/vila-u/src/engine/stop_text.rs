//! Ends a reply before a text that the client names.

/// Passes a growing text on, but for what may be the beginning of a stop text.
#[derive(Debug)]
pub(super) struct StopText {
    stops: Vec<String>,
    held: String,
}

impl StopText {
    pub(super) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned();
        Self {
            stops: stops.collect(),
            held: String::new(),
        }
    }

    /// What is known not to belong to a stop text, and whether one has come.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held += text;
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return (self.finish(), true);
        }
        let begins = |at: &usize| {
            let rest = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(rest))
        };
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places.into_iter().find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stop = StopText::new(&stops);
        let mut all = String::new();
        for piece in pieces {
            let (text, found) = stop.push(piece);
            all += &text;
            if found {
                return (all, true);
            }
        }
        (all + &stop.finish(), false)
    }

    #[test]
    fn a_reply_ends_before_the_first_stop_text_wherever_pieces_are_cut() {
        assert_eq!(
            run(&["\nUSER:"], &["a ", "b\nUS", "ER: c"]),
            ("a b".into(), true)
        );
        assert_eq!(run(&["###", "b"], &["a#", "#", "b"]), ("a##".into(), true));
        assert_eq!(run(&["###"], &["a#", "#"]), ("a##".into(), false));
        assert_eq!(run(&["é!"], &["é", "é", "!"]), ("é".into(), true));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
        assert_eq!(run(&[""], &["a"]), ("a".into(), false));
    }

    #[test]
    fn nothing_is_held_back_longer_than_needed() {
        let mut stop = StopText::new(&["abc".into()]);
        assert_eq!(stop.push("xab"), ("x".into(), false));
        assert_eq!(stop.push("d"), ("abd".into(), false));
    }
}
