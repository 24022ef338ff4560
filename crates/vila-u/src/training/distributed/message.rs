//! What stands behind every message: that ranks which have come to different places of a run find out.

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value as JSON.
    Value = 1,
    /// Numbers that become means.
    Gradients = 2,
    /// What they have made of the weights.
    Weights = 3,
    /// The optimizer's state.
    Moments = 4,
    /// Rows of a tensor.
    Rows = 5,
    /// Why the sender stops, as text.
    Failure = 6,
}

/// The end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub kind: Kind,
    /// Of the sender's exchanges, which one.
    pub exchange: u64,
    /// How many numbers the exchange is about, on the sender.
    pub count: u64,
}

/// Bytes of a trailer: `kind u8 | exchange u64 | count u64`, little-endian.
const LENGTH: usize = 17;

impl Trailer {
    pub(super) fn append(self, message: &mut Vec<u8>) {
        message.push(self.kind as u8);
        message.extend(self.exchange.to_le_bytes());
        message.extend(self.count.to_le_bytes());
    }

    /// Takes the trailer from the end of a message.
    pub(super) fn take(message: &mut Vec<u8>) -> Option<Self> {
        let bytes = message.split_off(message.len().checked_sub(LENGTH)?);
        let kinds = [
            Kind::Value,
            Kind::Gradients,
            Kind::Weights,
            Kind::Moments,
            Kind::Rows,
            Kind::Failure,
        ];
        let (exchange, count) = bytes[1..].split_at(8);
        Some(Self {
            kind: kinds.into_iter().find(|kind| *kind as u8 == bytes[0])?,
            exchange: u64::from_le_bytes(exchange.try_into().ok()?),
            count: u64::from_le_bytes(count.try_into().ok()?),
        })
    }

    /// What the sender does, for the person.
    pub(super) fn describe(self) -> String {
        let Self {
            exchange, count, ..
        } = self;
        match self.kind {
            Kind::Value => format!("a value (exchange {exchange})"),
            Kind::Gradients => format!("{count} gradients (exchange {exchange})"),
            Kind::Weights => format!("{count} weights (exchange {exchange})"),
            Kind::Moments => format!("{count} moments (exchange {exchange})"),
            Kind::Rows => format!("{count} numbers of rows (exchange {exchange})"),
            Kind::Failure => "why it stops".to_string(),
        }
    }
}

/// The numbers of a message, little-endian.
pub(super) fn floats(message: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let values = message.as_chunks().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes))
}

/// Lists of numbers as bytes, one after the other.
pub(super) fn bytes<'a>(lists: impl Iterator<Item = &'a [f32]>) -> Vec<u8> {
    let lists: Vec<&[f32]> = lists.collect();
    let count: usize = lists.iter().map(|list| list.len()).sum();
    // With room for the trailer.
    let mut bytes = Vec::with_capacity(4 * count + LENGTH);
    bytes.resize(4 * count, 0);
    let mut at = 0;
    for list in lists {
        let places = bytes[at..].as_chunks_mut().0.iter_mut();
        places
            .zip(list)
            .for_each(|(place, value)| *place = value.to_le_bytes());
        at += 4 * list.len();
    }
    bytes
}

/// Reads the lists of a message, one after the other.
pub(super) struct Lists<'a>(pub &'a [u8]);

impl Lists<'_> {
    /// Puts each number of the next list to the one in its place.
    pub(super) fn read(&mut self, list: &mut [f32], put: impl Fn(&mut f32, f32)) {
        let read = self.0.split_at_checked(4 * list.len());
        let (next, rest) = read.unwrap_or((self.0, &[]));
        let numbers = list.iter_mut().zip(floats(next));
        numbers.for_each(|(number, value)| put(number, value));
        self.0 = rest;
    }
}
