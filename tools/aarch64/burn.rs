//! In the place of Burn: numbers of 16 bits.

pub mod tensor {
    #[allow(non_camel_case_types)]
    pub struct f16(u16);

    impl f16 {
        pub fn from_le_bytes(bytes: [u8; 2]) -> Self {
            Self(u16::from_le_bytes(bytes))
        }

        pub fn to_f32(self) -> f32 {
            // Its exponent is too small by 112 where that of an f32 is.
            let sign = u32::from(self.0 & 0x8000) << 16;
            let rest = f32::from_bits(u32::from(self.0 & 0x7fff) << 13);
            f32::from_bits(sign | (rest * 2.0_f32.powi(112)).to_bits())
        }
    }
}
