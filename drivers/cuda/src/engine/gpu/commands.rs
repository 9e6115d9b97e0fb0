//! Queued commands, and the comparison of two lists of commands.
//!
//! The *shape* of a command is all of it except the contents of a kernel's argument. Lists of one shape can share a
//! graph, since updating the arguments of its kernels is cheap.

/// A launch of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Index of the kernel in [`Functions`](super::functions::Functions).
    pub(super) function: u32,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) shared: u32,
    /// Start of its argument in the list's arguments, in words.
    pub(super) at: u32,
    /// Size of its argument in bytes.
    pub(super) bytes: u32,
}

/// A dense product by cuBLASLt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product {
    /// Index of the plan in [`Lt`](crate::cublaslt::Lt).
    pub(super) plan: u32,
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) c: u64,
    /// Addresses of the scales of `a` and `b`, or 0.
    pub(super) scales: [u64; 2],
    /// The bits of α.
    pub(super) alpha: u32,
    /// The bits of β.
    pub(super) beta: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Kernel(Kernel),
    Product(Product),
    /// A copy of `bytes` bytes from pinned host memory to device memory.
    Upload {
        to: u64,
        from: u64,
        bytes: u64,
    },
}

/// A list of commands in queue order.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands {
    list: Vec<Command>,
    /// The concatenated arguments of the kernels, each padded to whole words.
    arguments: Vec<u64>,
    hash: u64,
}

impl Commands {
    pub(super) fn list(&self) -> &[Command] {
        &self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.arguments.clear();
        self.hash = 0;
    }

    /// A hash of the list's shape.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The argument of a kernel of this list.
    pub(super) fn argument(&self, kernel: &Kernel) -> &[u64] {
        &self.arguments[kernel.at as usize..][..kernel.bytes.div_ceil(8) as usize]
    }

    fn mix(&mut self, words: &[u64]) {
        // Multiplier and rotation are those of FxHash.
        for &word in words {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    /// Adds a launch.
    pub(super) fn kernel(&mut self, function: u32, grid: [u32; 3], threads: u32, shared: u32, args: &[u8]) {
        let at = self.arguments.len() as u32;
        let (words, rest) = args.as_chunks::<8>();
        self.arguments.extend(words.iter().map(|w| u64::from_ne_bytes(*w)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.arguments.push(u64::from_ne_bytes(last));
        }
        let bytes = args.len() as u32;
        let pair = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
        self.mix(&[pair(function, grid[0]), pair(grid[1], grid[2]), pair(threads, shared), u64::from(bytes)]);
        self.list.push(Command::Kernel(Kernel { function, grid, threads, shared, at, bytes }));
    }

    /// Adds a product.
    pub(super) fn product(&mut self, p: Product) {
        let scalars = u64::from(p.alpha) << 32 | u64::from(p.beta);
        self.mix(&[1 << 63 | u64::from(p.plan), p.a, p.b, p.c, p.scales[0], p.scales[1], scalars]);
        self.list.push(Command::Product(p));
    }

    /// Adds a copy.
    pub(super) fn upload(&mut self, to: u64, from: u64, bytes: u64) {
        self.mix(&[1 << 62 | bytes, to, from]);
        self.list.push(Command::Upload { to, from, bytes });
    }

    /// Whether two lists have the same shape.
    pub(super) fn same_shape(&self, other: &Self) -> bool {
        self.hash == other.hash && self.list == other.list
    }

    /// The kernels whose arguments differ between two lists of one shape, with their indices.
    pub(super) fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (usize, &'a Kernel)> {
        let same = self.arguments == other.arguments;
        let list = if same { &[][..] } else { &self.list[..] };
        list.iter().enumerate().filter_map(|(i, command)| match command {
            Command::Kernel(kernel) if self.argument(kernel) != other.argument(kernel) => Some((i, kernel)),
            _ => None,
        })
    }

    /// Copies the arguments of a list of the same shape.
    pub(super) fn adopt(&mut self, other: &Self) {
        self.arguments.clone_from(&other.arguments);
    }
}

/// A cache by hash that evicts the least recently used value.
pub(super) struct Recent<T> {
    /// Hash, time of last use, value.
    kept: Vec<(u64, u64, T)>,
    capacity: usize,
    clock: u64,
}

impl<T> Recent<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { kept: Vec::new(), capacity, clock: 0 }
    }

    /// The value under `hash` that `fits` accepts.
    pub(super) fn get(&mut self, hash: u64, fits: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.clock += 1;
        let (_, used, thing) = self.kept.iter_mut().find(|(h, _, thing)| *h == hash && fits(thing))?;
        *used = self.clock;
        Some(thing)
    }

    /// Inserts a value and returns the evicted one.
    pub(super) fn put(&mut self, hash: u64, thing: T) -> Option<T> {
        self.clock += 1;
        let oldest = (0..self.kept.len()).min_by_key(|&i| self.kept[i].1);
        let gone = oldest.filter(|_| self.kept.len() >= self.capacity).map(|i| self.kept.swap_remove(i).2);
        self.kept.push((hash, self.clock, thing));
        gone
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(arguments: [&[u8]; 2]) -> Commands {
        let mut c = Commands::default();
        c.kernel(0, [1, 2, 3], 256, 128, arguments[0]);
        c.upload(512, 1024, 64);
        c.product(Product { plan: 3, a: 1, b: 2, c: 3, scales: [0, 0], alpha: 1.0f32.to_bits(), beta: 0 });
        c.kernel(7, [5, 1, 1], 32, 0, arguments[1]);
        c
    }

    #[test]
    fn arguments_are_no_part_of_the_shape() {
        let a = sample([&[1; 16], &[2; 12]]);
        let b = sample([&[1; 16], &[3; 12]]);
        assert!(a.same_shape(&b));
        assert_eq!(a.changed(&a.clone()).count(), 0);
        assert_eq!(b.changed(&a).map(|(i, k)| (i, k.function)).collect::<Vec<_>>(), [(3, 7)]);
        let Command::Kernel(last) = b.list()[3] else { panic!("the last command is a kernel") };
        let (three, ended) = (u64::from_ne_bytes([3; 8]), u64::from_ne_bytes([3, 3, 3, 3, 0, 0, 0, 0]));
        assert_eq!((last.at, last.bytes, b.argument(&last)), (2, 12, &[three, ended][..]));
        let mut adopted = a.clone();
        adopted.adopt(&b);
        assert_eq!(b.changed(&adopted).count(), 0);
    }

    #[test]
    fn anything_else_is() {
        let a = sample([&[1; 16], &[2; 12]]);
        assert!(!a.same_shape(&sample([&[1; 16], &[2; 16]])), "the size of an argument");
        let mut longer = a.clone();
        longer.upload(1, 2, 3);
        assert!(!a.same_shape(&longer), "one more command");
        for change in 0..5 {
            let mut c = Commands::default();
            let grid = [1, 2, if change == 0 { 4 } else { 3 }];
            c.kernel(u32::from(change == 1), grid, 256, if change == 2 { 0 } else { 128 }, &[1; 16]);
            c.upload(512, if change == 3 { 0 } else { 1024 }, 64);
            let b = if change == 4 { 9 } else { 2 };
            c.product(Product { plan: 3, a: 1, b, c: 3, scales: [0, 0], alpha: 1.0f32.to_bits(), beta: 0 });
            c.kernel(7, [5, 1, 1], 32, 0, &[2; 12]);
            assert!(!a.same_shape(&c), "change {change}");
            assert_ne!(a.hash(), c.hash(), "change {change}");
        }
        let mut again = longer;
        again.clear();
        assert!(again.is_empty() && again.same_shape(&Commands::default()));
    }

    #[test]
    fn the_least_recently_used_goes() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.put(1, "a"), None);
        assert_eq!(recent.put(2, "b"), None);
        assert_eq!(recent.get(1, |_| true), Some(&mut "a"));
        assert_eq!(recent.put(3, "c"), Some("b"));
        assert_eq!(recent.get(2, |_| true), None);
        assert_eq!(recent.get(1, |_| false), None, "one of the same hash that does not fit");
        assert_eq!(recent.get(3, |_| true), Some(&mut "c"));
    }
}
