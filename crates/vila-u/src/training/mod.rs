pub mod multimodal;
