//! Faults that are planted to see them found.

/// A fault of the run, not of the code under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some packets that were lost are acknowledged.
    ForgedAcks,
    /// The client applies what comes without asking its receiver.
    AppliesBlindly,
    /// The low-water offset is one more than was said.
    LowRaised,
    /// What is looked up again is looked up in a log that has stayed behind.
    OldLog,
    /// A reset that is asked for is not made.
    NoReset,
    /// The sender is not told of some publications.
    NotWoken,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::ForgedAcks,
        Self::AppliesBlindly,
        Self::LowRaised,
        Self::OldLog,
        Self::NoReset,
        Self::NotWoken,
    ];
}
