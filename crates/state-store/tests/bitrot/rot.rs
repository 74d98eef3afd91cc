//! What happens to the files.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A small generator: the same seed and case, the same damage.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, case: u64) -> Self {
        Self(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound.max(1)
    }
}

/// What was done to which file.
#[derive(Debug)]
pub(crate) struct Rot {
    file: PathBuf,
    damage: Damage,
}

#[derive(Debug)]
enum Damage {
    /// One bit.
    Flip { at: u64, bit: u64 },
    /// Sectors that were never written, or written with something else.
    Tear { at: u64, length: u64, with: u8 },
    /// The end is gone.
    Cut { length: u64 },
}

impl Rot {
    pub(crate) fn kind(&self) -> &'static str {
        match self.damage {
            Damage::Flip { .. } => "flip",
            Damage::Tear { .. } => "tear",
            Damage::Cut { .. } => "cut",
        }
    }

    pub(crate) fn kind_of_file(&self) -> String {
        let name = self.file.file_name().unwrap().to_string_lossy();
        name.split('.').next().unwrap().to_owned()
    }
}

/// Damages one file below a folder: mostly the log, and each of the others now and then.
pub(crate) fn rot(folder: &Path, random: &mut Random, case: u64) -> Rot {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.sort();
    let log = files.iter().position(|file| file.ends_with("db")).unwrap();
    let index = match case % 3 {
        0 => usize::try_from(case / 3).unwrap() % files.len(),
        _ => log,
    };
    let path = files.swap_remove(index);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    let damage = match random.below(8) {
        0 if length > 1 => Damage::Cut { length: random.below(length) },
        1 | 2 => {
            let at = random.below(length) / 512 * 512;
            let bytes = (1 + random.below(8)) * 512;
            Damage::Tear {
                at,
                length: bytes.min(length - at),
                with: if random.below(2) == 0 { 0 } else { 0x5a },
            }
        }
        _ => Damage::Flip { at: random.below(length), bit: random.below(8) },
    };
    match damage {
        Damage::Flip { at, bit } => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
        }
        Damage::Tear { at, length, with } => {
            file.write_all_at(&vec![with; usize::try_from(length).unwrap()], at).unwrap();
        }
        Damage::Cut { length } => file.set_len(length).unwrap(),
    }
    Rot { file: path.strip_prefix(folder).unwrap().to_owned(), damage }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
