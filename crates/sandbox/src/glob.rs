//! Patterns for the files to keep.
//!
//! A pattern is a path whose names may have wildcards: `*` any bytes, `?` one byte, `[a-z]` one of these, `[!a-z]` one other, each
//! within a name; `**` as a whole name is any number of directories, none too. There is no escape but a class: `[*]`. A `[`
//! that nothing closes is itself. Names that begin with a dot are matched like others. Bytes are compared, not characters.
//!
//! A pattern whose last name has no wildcard and that leads to a directory means everything below it.
//!
//! Patterns come from a client, names from the program. Matching one name takes at most as many steps as pattern and name have
//! bytes, multiplied; nothing recurses and nothing grows with the depth of a path.

/// Names that a pattern may have: its state is kept in the bits of a number. A longer one matches nothing.
pub const GLOB_NAMES_MAX: usize = 62;
/// The state in which everything matches.
const BELOW: u64 = 1 << 63;

/// Patterns, ready to use.
#[derive(Clone, Debug)]
pub struct Globs {
    patterns: Vec<Pattern>,
}

/// How far each pattern has come on the way to a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(Vec<u64>);

#[derive(Clone, Debug)]
struct Pattern {
    names: Vec<Name>,
    /// Its last name has no wildcard.
    spelled_out: bool,
}

#[derive(Clone, Debug)]
enum Name {
    /// `**`
    Directories,
    Parts(Vec<Part>),
}

#[derive(Clone, Debug)]
enum Part {
    Byte(u8),
    Any,
    Star,
    /// One bit for each byte value.
    Class([u64; 4]),
}

impl Globs {
    /// Absolute paths, with or without their first slash.
    pub fn new<'a>(globs: impl IntoIterator<Item = &'a [u8]>) -> Globs {
        Globs { patterns: globs.into_iter().filter_map(Pattern::new).collect() }
    }

    /// The state of the directory at `path`; `None` if nothing can match below it.
    pub fn at(&self, path: &[u8]) -> Option<State> {
        let mut state = State(self.patterns.iter().map(Pattern::start).collect());
        for name in names_of(path) {
            state = self.enter(&state, name)?;
        }
        Some(state)
    }

    /// The state of a directory of this name in the directory of that state; `None` if nothing can match below it.
    pub fn enter(&self, state: &State, name: &[u8]) -> Option<State> {
        let step = |(pattern, state): (&Pattern, &u64)| pattern.enter(*state, name);
        let next: Vec<u64> = self.patterns.iter().zip(&state.0).map(step).collect();
        next.iter().any(|state| *state != 0).then_some(State(next))
    }

    /// Whether a file of this name in the directory of that state matches.
    pub fn has(&self, state: &State, name: &[u8]) -> bool {
        self.patterns.iter().zip(&state.0).any(|(pattern, state)| pattern.has(*state, name))
    }

    /// Whether a pattern goes on below a directory of this name, and not only because `**` stands for any: if it is a link
    /// instead, somebody will wonder.
    pub fn leads_through(&self, state: &State, name: &[u8]) -> bool {
        self.patterns.iter().zip(&state.0).any(|(pattern, state)| pattern.leads_through(*state, name))
    }

    /// Whether the file at an absolute path matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        self.at(directory).is_some_and(|state| self.has(&state, name))
    }
}

fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// In a state, bit `n` says that the first `n` names are behind us.
impl Pattern {
    fn new(glob: &[u8]) -> Option<Pattern> {
        let names: Vec<Name> = names_of(glob).map(Name::new).collect();
        let spelled_out = match names.last()? {
            Name::Directories => false,
            Name::Parts(parts) => parts.iter().all(|part| matches!(part, Part::Byte(_))),
        };
        (names.len() <= GLOB_NAMES_MAX).then_some(Pattern { names, spelled_out })
    }

    fn start(&self) -> u64 {
        self.pass_directories(1)
    }

    /// `**` may stand for no directory. One at the end needs a name, or `a/**` would be `a` itself.
    fn pass_directories(&self, mut state: u64) -> u64 {
        let last = self.names.len() - 1;
        for (n, name) in self.names[..last].iter().enumerate() {
            if matches!(name, Name::Directories) && state & (1 << n) != 0 {
                state |= 1 << (n + 1);
            }
        }
        state
    }

    /// The state behind one more name.
    fn step(&self, state: u64, name: &[u8]) -> u64 {
        let mut next = 0;
        for (n, wanted) in self.names.iter().enumerate().filter(|(n, _)| state & (1 << n) != 0) {
            match wanted {
                Name::Directories if n + 1 == self.names.len() => next |= 3 << n,
                Name::Directories => next |= 1 << n,
                Name::Parts(parts) if matches(parts, name) => next |= 1 << (n + 1),
                Name::Parts(_) => {}
            }
        }
        self.pass_directories(next)
    }

    fn enter(&self, state: u64, name: &[u8]) -> u64 {
        if state & BELOW != 0 {
            return BELOW;
        }
        let next = self.step(state, name);
        let whole = 1 << self.names.len();
        if next & whole != 0 && self.spelled_out { BELOW } else { next & !whole }
    }

    fn leads_through(&self, state: u64, name: &[u8]) -> bool {
        let last = self.names.len() - 1;
        self.names[..last].iter().enumerate().any(|(n, wanted)| {
            let Name::Parts(parts) = wanted else { return false };
            state & (1 << n) != 0 && matches(parts, name)
        })
    }

    fn has(&self, state: u64, name: &[u8]) -> bool {
        state & BELOW != 0 || (state != 0 && self.step(state, name) & (1 << self.names.len()) != 0)
    }
}

impl Name {
    fn new(name: &[u8]) -> Name {
        if name == b"**" {
            return Name::Directories;
        }
        let (mut parts, mut rest) = (Vec::with_capacity(name.len()), name);
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            parts.push(match first {
                b'*' if matches!(parts.last(), Some(Part::Star)) => continue,
                b'*' => Part::Star,
                b'?' => Part::Any,
                b'[' => match class(behind) {
                    Some((class, behind)) => {
                        rest = behind;
                        Part::Class(class)
                    }
                    None => Part::Byte(b'['),
                },
                byte => Part::Byte(*byte),
            });
        }
        Name::Parts(parts)
    }
}

/// What stands behind `[`, and what follows its `]`. A `]` in the first place is one of the bytes.
fn class(rest: &[u8]) -> Option<([u64; 4], &[u8])> {
    let (negated, rest) = match rest.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, rest),
    };
    let end = 1 + rest.iter().skip(1).position(|byte| *byte == b']')?;
    let (mut inside, behind) = (&rest[..end], &rest[end + 1..]);
    let mut set = [0u64; 4];
    while let Some((from, rest)) = inside.split_first() {
        let (to, rest) = match rest {
            [b'-', to, rest @ ..] => (to, rest),
            rest => (from, rest),
        };
        for byte in *from..=*to {
            set[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
        inside = rest;
    }
    Some((if negated { set.map(|bits| !bits) } else { set }, behind))
}

/// On a mismatch only the last star is tried with one byte more: what an earlier one could give, the last one can, too.
fn matches(parts: &[Part], name: &[u8]) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match parts.get(part) {
            Some(Part::Star) => {
                star = Some((part + 1, at));
                part += 1;
                continue;
            }
            Some(one) if one.is(name[at]) => {
                part += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some((behind, from)) = star else { return false };
        star = Some((behind, from + 1));
        (part, at) = (behind, from + 1);
    }
    parts[part..].iter().all(|part| matches!(part, Part::Star))
}

impl Part {
    fn is(&self, byte: u8) -> bool {
        match self {
            Part::Byte(wanted) => *wanted == byte,
            Part::Any => true,
            Part::Star => false,
            Part::Class(set) => set[usize::from(byte / 64)] & (1 << (byte % 64)) != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn globs(pattern: &[u8]) -> Globs {
        Globs::new([pattern])
    }

    #[test]
    fn what_patterns_mean() {
        for (pattern, yes, no) in [
            (
                "/work/*.txt",
                &["/work/a.txt", "/work/.txt"][..],
                &["/work/a.txtx", "/work/d/a.txt", "/tmp/a.txt"][..],
            ),
            ("/work/*", &["/work/a", "/work/.hidden"], &["/work/d/a", "/work"]),
            ("/work/**", &["/work/a", "/work/d/e/a"], &["/work", "/tmp/a"]),
            ("/work/**/*.o", &["/work/a.o", "/work/d/e/a.o"], &["/work/a.oo", "/work/d/a.o/x"]),
            (
                "/work/a/**/b",
                &["/work/a/b", "/work/a/x/b", "/work/a/x/y/b", "/work/a/b/c"],
                &["/work/b", "/work/a"],
            ),
            // Spelled out: a directory means all below it.
            ("/work/out", &["/work/out", "/work/out/a", "/work/out/d/a"], &["/work/outx", "/work/d/out"]),
            ("/work/*/out", &["/work/d/out", "/work/d/out/a"], &["/work/out/a"]),
            ("/work/ou?", &["/work/out", "/work/our"], &["/work/out/a", "/work/ou", "/work/outt"]),
            ("/work/[a-c]x", &["/work/ax", "/work/cx"], &["/work/dx", "/work/x", "/work/-x"]),
            ("/work/[!a-c]x", &["/work/dx", "/work/\u{1}x"], &["/work/ax", "/work/x"]),
            ("/work/[^a]", &["/work/b"], &["/work/a"]),
            ("/work/[]a-]", &["/work/]", "/work/a", "/work/-"], &["/work/b"]),
            ("/work/[*]", &["/work/*"], &["/work/a"]),
            ("/work/[ab", &["/work/[ab", "/work/[ab/x"], &["/work/a"]),
            ("/work/a**b", &["/work/ab", "/work/axxb"], &["/work/a/b"]),
            ("/work/{a,b}", &["/work/{a,b}"], &["/work/a"]),
        ] {
            for path in yes {
                assert!(globs(pattern.as_bytes()).matches(path.as_bytes()), "{pattern} {path}");
            }
            for path in no {
                assert!(!globs(pattern.as_bytes()).matches(path.as_bytes()), "{pattern} {path}");
            }
        }
        assert!(globs(b"/work/*").matches(b"/work/\xFF\n"));
        assert!(globs(b"/work/?").matches(b"/work/\xFF") && !globs(b"/work/?").matches("/work/ä".as_bytes()));
    }

    #[test]
    fn directories_that_can_hold_nothing_are_not_entered() {
        let all = Globs::new([&b"/work/out/*.txt"[..], b"/tmp/**/x"]);
        assert!(
            all.at(b"/work").is_some() && all.at(b"/work/out").is_some() && all.at(b"/tmp/a/b").is_some()
        );
        let root = all.at(b"/work").expect("a state");
        assert!(all.leads_through(&root, b"out") && !all.leads_through(&root, b"other"));
        let temporary = all.at(b"/tmp").expect("a state");
        assert!(!all.leads_through(&temporary, b"d") && !all.leads_through(&temporary, b"x"));
        assert!(
            all.at(b"/work/other").is_none() && all.at(b"/work/out/d").is_none() && all.at(b"/var").is_none()
        );
    }

    #[test]
    fn too_many_names_match_nothing() {
        let deep = |names: usize| vec!["**"; names].join("/");
        assert!(globs(deep(GLOB_NAMES_MAX).as_bytes()).matches(b"/a"));
        assert!(!globs(deep(GLOB_NAMES_MAX + 1).as_bytes()).matches(b"/a"));
    }

    #[test]
    fn hostile_patterns_and_names_take_bounded_time() {
        let pattern = format!("/work/{}{}", "**/".repeat(15), "*a".repeat(250));
        let path = format!("/work/{}{}", "aaaaaaaa/".repeat(100), "a".repeat(255));
        let since = Instant::now();
        globs(pattern.as_bytes()).matches(path.as_bytes());
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }

    /// The definition, tried out in every way.
    fn naive(pattern: &[&[u8]], path: &[&[u8]]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            ([b"**"], path) => !path.is_empty(),
            ([b"**", rest @ ..], path) => (0..=path.len()).any(|skip| naive(rest, &path[skip..])),
            ([name], [one, below @ ..]) => {
                let spelled_out = !name.iter().any(|byte| b"*?[".contains(byte));
                naive_name(name, one) && (below.is_empty() || spelled_out)
            }
            ([name, names @ ..], [one, rest @ ..]) => naive_name(name, one) && naive(names, rest),
            _ => false,
        }
    }

    fn naive_name(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], name) => (0..=name.len()).any(|skip| naive_name(rest, &name[skip..])),
            ([b'[', b'a', b'-', b'b', b']', rest @ ..], [byte, name @ ..]) => {
                b"ab".contains(byte) && naive_name(rest, name)
            }
            ([b'?', rest @ ..], [_, name @ ..]) => naive_name(rest, name),
            ([one, rest @ ..], [byte, name @ ..]) => one == byte && naive_name(rest, name),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn it_matches_what_the_definition_says(
            pattern in vec(vec(prop_oneof!["[abc]", Just("*".to_owned()), Just("?".to_owned()), Just("[a-b]".to_owned())], 1..5), 1..5),
            deep in vec(any::<bool>(), 5),
            path in vec("[abc]{1,4}", 1..6),
        ) {
            let names: Vec<String> = pattern.iter().zip(&deep)
                .map(|(parts, deep)| if *deep { "**".to_owned() } else { parts.concat() }).collect();
            let (names, path): (Vec<&[u8]>, Vec<&[u8]>) =
                (names.iter().map(|name| name.as_bytes()).collect(), path.iter().map(|name| name.as_bytes()).collect());
            let (glob, whole) = (names.join(&b'/'), path.join(&b'/'));
            let expected = naive(&names, &path);
            prop_assert_eq!(globs(&glob).matches(&whole), expected, "{:?} {:?}", glob.escape_ascii(), whole.escape_ascii());
            // A directory that is not entered has nothing in it that matches.
            for length in 0..path.len() {
                if globs(&glob).at(&path[..length].join(&b'/')).is_none() {
                    prop_assert!(!expected);
                }
            }
        }

        #[test]
        fn no_bytes_are_too_odd(pattern: Vec<u8>, path: Vec<u8>) {
            globs(&pattern).matches(&path);
        }
    }
}
