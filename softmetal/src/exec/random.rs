//! The order of threads.

/// A generator (splitmix64); one of seed 0 leaves every order as it is.
pub(super) struct Random {
    state: u64,
    on: bool,
}

impl Random {
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { state: seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ stream, on: seed != 0 }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        if self.on {
            for i in (1..items.len()).rev() {
                let j = (self.next() >> 32) as usize * (i + 1);
                items.swap(i, j >> 32);
            }
        }
    }

    pub fn coin(&mut self) -> bool {
        self.on && self.next() >> 63 == 1
    }
}
