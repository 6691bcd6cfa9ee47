//! Numbers that look random and are the same in every run.
#![allow(dead_code, reason = "not every test needs all of it")]

/// Xorshift with 64 bits of state.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 to `bound` − 1.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from((self.bits() >> 11) % bound as u64).unwrap()
    }

    pub fn byte(&mut self) -> u8 {
        self.bits().to_be_bytes()[0]
    }
}
