//! Makes the tokenizers of the nano model: `cargo run --example nano_tokenizers models/nano`.

fn main() -> vila_u::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or("models/nano".into());
    vila_u::data::nano::write_tokenizers(folder.as_ref())
}
