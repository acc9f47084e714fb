//! Seeded chance: the same seed gives the same run, on every machine.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of their own for each writer of a run.
    pub fn new(seed: u64, writer: u64) -> Dice {
        let mut dice = Dice(seed ^ writer.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        // The high bits of the product are the fair ones (Lemire); the bias is below 2^-32.
        u32::try_from(((self.next() >> 32) * u64::from(end)) >> 32).unwrap_or_default()
    }

    /// A number from 1 to `end`.
    pub fn upto(&mut self, end: u32) -> u32 {
        self.below(end) + 1
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same() {
        let roll = |seed, writer| {
            let mut dice = Dice::new(seed, writer);
            [0; 8].map(|_| dice.below(1000))
        };
        assert_eq!(roll(1, 2), roll(1, 2));
        assert_ne!(roll(1, 2), roll(1, 3));
        assert_ne!(roll(1, 2), roll(2, 2));
    }

    #[test]
    fn every_face_comes_up_and_no_other() {
        let mut dice = Dice::new(0, 0);
        let mut seen = [0; 6];
        (0..600).for_each(|_| seen[dice.below(6) as usize] += 1);
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(dice.upto(1), 1);
    }
}
