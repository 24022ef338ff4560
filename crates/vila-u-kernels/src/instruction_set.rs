//! Which vector instructions the kernels use: the best that this machine has, or at most those that the environment
//! variable `VILA_U_CPU` names, which tells whether a wrong number comes from one of them.

use std::sync::OnceLock;

use pulp::Arch;

/// Vector instructions, each including those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Burn's operations, and plain loops for what is stored in fewer bits.
    Plain,
    /// Arm's 128 bits, with dot products of bytes where the CPU has them.
    Neon,
    /// Intel's 256 bits, with FMA.
    Avx2,
    /// Intel's 512 bits, with VNNI and BF16 where the CPU has them.
    Avx512,
    /// Intel's tile unit.
    Amx,
}

/// What the environment variable is called.
pub const VARIABLE: &str = "VILA_U_CPU";

impl InstructionSet {
    const ALL: [Self; 5] = [Self::Plain, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx];

    /// As in the environment variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Those that this machine has, and the kernels know, whatever the environment says.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best that the kernels use.
    pub fn used() -> Self {
        static USED: OnceLock<InstructionSet> = OnceLock::new();
        *USED.get_or_init(|| {
            let most = Self::named().ok().flatten().unwrap_or(Self::Amx);
            let used = Self::available().filter(|set| *set <= most).last();
            used.unwrap_or(Self::Plain)
        })
    }

    /// The set that the environment variable names, if it is there; otherwise what is wrong with it. The kernels
    /// themselves take no notice of a name that they do not know.
    pub fn named() -> Result<Option<Self>, String> {
        let Ok(name) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        let named = Self::ALL.into_iter().find(|set| set.name() == name);
        named.map(Some).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{VARIABLE}={name} is no set of instructions: use one of {names}")
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Self::Plain => true,
            Self::Neon => false,
            Self::Avx2 => pulp::x86::V3::try_new().is_some(),
            Self::Avx512 => pulp::x86::V4::try_new().is_some(),
            Self::Amx => pulp::x86::V4::try_new().is_some() && crate::amx::is_here(),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_available(self) -> bool {
        match self {
            Self::Plain => true,
            Self::Neon => !matches!(Arch::new(), Arch::Scalar),
            Self::Avx2 | Self::Avx512 | Self::Amx => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_available(self) -> bool {
        self == Self::Plain
    }
}

/// May the kernels use these instructions?
#[inline]
pub(crate) fn allows(set: InstructionSet) -> bool {
    InstructionSet::used() >= set
}

/// The vectors to run loops with.
#[inline]
pub(crate) fn arch() -> Arch {
    #[cfg(target_arch = "x86_64")]
    if InstructionSet::used() == InstructionSet::Avx2
        && let Some(avx2) = pulp::x86::V3::try_new()
    {
        return Arch::V3(avx2);
    }
    if InstructionSet::used() == InstructionSet::Plain {
        return Arch::Scalar;
    }
    Arch::new()
}
