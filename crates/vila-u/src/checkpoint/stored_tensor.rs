//! A tensor in a file, whose values are read when they are asked for.

use std::{borrow::Cow, ops::Range, path::PathBuf};

use burn::{
    store::pytorch_reader,
    tensor::{AllocationProperty, DType, Shape, TensorData},
};
use rayon::prelude::*;
use vila_u_kernels::{BlockFormat, huge_pages};

use super::{
    files::Bytes,
    floats::{convert, transpose},
    parameter::ParameterSpec,
    random,
};
use crate::{Error, Result};

/// Bytes that one core copies at a time.
const COPIED: usize = 1 << 20;

/// A tensor in a file, its values not read yet.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub file: PathBuf,
    /// The dtype as the file format spells it ("F32", "BF16", ...).
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
    /// The dtype if it is floating point, which is what parameters are made of.
    pub(super) float: Option<DType>,
    pub(super) values: TensorStorage,
}

/// Where the values of a tensor are.
#[derive(Clone, Debug)]
pub(super) enum TensorStorage {
    Mapped { file: Bytes, range: Range<usize> },
    Pytorch(pytorch_reader::Tensor),
    Random(random::Fill),
}

impl StoredTensor {
    /// The floating-point type of the values; None for those in blocks.
    pub(crate) fn float(&self) -> Option<DType> {
        self.float
    }

    /// Whether [`StoredTensor::read`] cannot fail: floats in mapped memory, which has been found to hold them.
    pub(crate) fn is_infallible(&self) -> bool {
        self.float.is_some() && !matches!(self.values, TensorStorage::Pytorch(_))
    }

    /// The blocks that the values of this parameter are in.
    pub(crate) fn blocks(&self, parameter: &ParameterSpec) -> Option<BlockFormat> {
        let bytes = self.dtype == "U8";
        bytes.then(|| parameter.stored_blocks(&self.shape))?
    }

    /// Whether these are values for this parameter.
    pub(crate) fn fits(&self, parameter: &ParameterSpec) -> bool {
        self.shape == parameter.shape || self.blocks(parameter).is_some()
    }

    /// A tensor that no file holds; `file` says what it is made up from.
    pub(super) fn random(file: PathBuf, shape: Vec<usize>, values: random::Fill) -> Self {
        Self {
            file,
            dtype: "random".into(),
            shape,
            bytes: 0,
            float: Some(DType::BF16),
            values: TensorStorage::Random(values),
        }
    }

    /// The values as `dtype` (f32, f16 or bf16), row-major; with `transposed`, those of the matrix
    /// with rows and columns exchanged.
    ///
    /// # Errors
    /// When the tensor is not floating point, or its values cannot be read.
    pub(crate) fn read(
        &self,
        key: &str,
        parameter: &ParameterSpec,
        dtype: DType,
        transposed: bool,
    ) -> Result<TensorData> {
        let raw = self.raw(key)?;
        let unpacked;
        let (bytes, stored): (&[u8], _) = match (self.blocks(parameter), self.float) {
            (Some(blocks), _) => {
                let weights = blocks.dequantize(&raw);
                let shape = [weights.len()];
                unpacked = TensorData::new(weights, shape);
                (unpacked.as_bytes(), DType::F32)
            }
            (None, Some(stored)) => (&raw, stored),
            (None, None) => {
                return Err(self.fail(key, format!("dtype {} is not floating point", self.dtype)));
            }
        };
        // Both formats have been checked to hold as many bytes as their shapes ask for.
        Ok(match parameter.shape[..] {
            [rows, columns] if transposed => {
                let bytes = transpose(bytes, columns, stored.size());
                convert(&bytes, Shape::from([columns, rows]), stored, dtype)
            }
            _ => convert(bytes, Shape::from(parameter.shape.clone()), stored, dtype),
        })
    }

    /// The values as `dtype` in the shape they are stored in.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    pub(crate) fn floats(&self, key: &str, dtype: DType) -> Result<TensorData> {
        let parameter = ParameterSpec {
            path: key.into(),
            shape: self.shape.clone(),
            linear: false,
        };
        self.read(key, &parameter, dtype, false)
    }

    /// As [`StoredTensor::read`], into memory that is quick to read again and again.
    pub(crate) fn read_to_hold(
        &self,
        key: &str,
        parameter: &ParameterSpec,
        dtype: DType,
    ) -> Result<TensorData> {
        let (raw, read);
        let bytes = if self.float == Some(dtype) && cfg!(target_endian = "little") {
            raw = self.raw(key)?;
            &*raw
        } else {
            read = self.read(key, parameter, dtype, false)?;
            read.as_bytes()
        };
        let held = huge_pages::filled(bytes.len(), |held| {
            let parts = held.par_chunks_mut(COPIED).zip(bytes.par_chunks(COPIED));
            parts.for_each(|(held, bytes)| held.copy_from_slice(bytes));
        });
        let shape = Shape::from(parameter.shape.clone());
        Ok(TensorData::from_bytes(held, shape, dtype))
    }

    /// Gives memory back that holds the tensor's part of a mapped file.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let TensorStorage::Mapped {
            file: Bytes::Mapped(map),
            range,
        } = &self.values
        {
            let forget = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: of a read-only mapping of a file; what is read again comes from the file again.
            // Nothing is lost where it fails.
            let _ = unsafe { map.unchecked_advise_range(forget, range.start, range.len()) };
        }
    }

    /// The values in blocks, as bytes `[outputs, bytes of a row]`; as they lie there where the file is mapped
    /// and has them so.
    pub(crate) fn read_blocks(
        &self,
        key: &str,
        parameter: &ParameterSpec,
        blocks: BlockFormat,
    ) -> Result<TensorData> {
        if self.blocks(parameter) == Some(blocks) {
            let bytes = || {
                let shape = Shape::from(self.shape.clone());
                let bytes = self.raw(key)?.into_owned();
                Ok(TensorData::from_bytes_vec(bytes, shape, DType::U8))
            };
            return self.mapped().map_or_else(bytes, Ok);
        }
        let row = match parameter.shape[..] {
            [_, inputs] => blocks.row_bytes(inputs),
            _ => None,
        };
        let row = row.ok_or_else(|| self.fail(key, "rows that make no whole blocks".into()))?;
        let values = self.read(key, parameter, DType::F32, false)?;
        to_blocks(key, values, blocks, vec![parameter.shape[0], row])
    }

    fn raw(&self, key: &str) -> Result<Cow<'_, [u8]>> {
        match &self.values {
            TensorStorage::Mapped { file, range } => file
                .get(range.clone())
                .map(Cow::Borrowed)
                .ok_or_else(|| self.fail(key, "truncated".into())),
            TensorStorage::Pytorch(tensor) => tensor
                .read()
                .map(|bytes| Cow::Owned(bytes.to_vec()))
                .map_err(|error| self.fail(key, error.to_string())),
            TensorStorage::Random(values) => {
                Ok(Cow::Owned(values.bytes(self.shape.iter().product())))
            }
        }
    }

    /// The bytes where they lie in the file, if they are mapped.
    fn mapped(&self) -> Option<TensorData> {
        let TensorStorage::Mapped { file, range } = &self.values else {
            return None;
        };
        let bytes = bytes::Bytes::from_owner(file.clone()).slice(range.clone());
        let bytes = burn::tensor::Bytes::from_shared(bytes, AllocationProperty::File);
        let shape = Shape::from(self.shape.clone());
        Some(TensorData::from_bytes(bytes, shape, DType::U8))
    }

    fn fail(&self, key: &str, reason: String) -> Error {
        Error::invalid(&self.file, format!("tensor `{key}`: {reason}"))
    }
}

/// Floats in blocks: bytes of this shape.
///
/// # Errors
/// When a value has no place in them.
pub(crate) fn to_blocks(
    key: &str,
    values: TensorData,
    blocks: BlockFormat,
    shape: Vec<usize>,
) -> Result<TensorData> {
    let fail = |reason: String| Error::failed(format!("tensor `{key}`: {reason}"));
    let values = values.as_slice::<f32>();
    let values = values.map_err(|error| fail(format!("{error:?}")))?;
    let bytes = blocks.quantize(values).ok_or_else(|| {
        fail("values that are not numbers, or too large for blocks with a scale of f16".into())
    })?;
    Ok(TensorData::from_bytes_vec(
        bytes,
        Shape::from(shape),
        DType::U8,
    ))
}
