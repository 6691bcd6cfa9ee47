//! Names of unikernels and block devices, and the paths they live under (WIRE 2).
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// One component of a name: 1 to 63 bytes of `A-Z a-z 0-9 - .`, not starting with `-`, kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// A possibly empty list of labels; the empty path is the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Label>);

/// A path with or without a final label: a unikernel (or block device), or the path itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    path: Path,
    label: Option<Label>,
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The empty text names nothing; the root is written `:`.
    Empty,
    /// This component is no label.
    BadLabel(String),
}

impl Label {
    /// Most bytes a label can have.
    pub const MAX_BYTES: usize = 63;

    /// The label's text, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len())
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        if !fits {
            return Err(NameError::BadLabel(text.to_owned()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl Path {
    /// The path without labels.
    pub const ROOT: Self = Self(Vec::new());

    /// The labels from the root down.
    pub fn labels(&self) -> &[Label] {
        &self.0
    }

    /// Whether this is the path without labels.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of its first label: whose share of this host something counts for.
    #[must_use]
    pub fn tenant(&self) -> Self {
        self.0.iter().take(1).cloned().collect()
    }

    /// This path with one label more.
    #[must_use]
    pub fn child(&self, label: Label) -> Self {
        let mut labels = self.0.clone();
        labels.push(label);
        Self(labels)
    }

    /// The path above; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    /// This path and all above it, nearest first, the root last.
    pub fn ancestry(&self) -> impl Iterator<Item = Self> {
        (0..=self.0.len())
            .rev()
            .map(|depth| Self(self.0[..depth].to_vec()))
    }

    /// Whether `self` is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// What is left of `self` below `prefix`; `None` if it does not lie there.
    pub fn relative_to(&self, prefix: &Self) -> Option<Self> {
        self.0
            .strip_prefix(&prefix.0[..])
            .map(|rest| Self(rest.to_vec()))
    }

    /// The labels joined with `:`, as `foo:bar`; empty for the root.
    pub fn joined(&self) -> String {
        self.0
            .iter()
            .map(Label::as_str)
            .collect::<Vec<_>>()
            .join(":")
    }
}

impl FromIterator<Label> for Path {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

impl FromStr for Path {
    type Err = NameError;

    /// `foo:bar`, with one leading colon allowed; the empty text is the root.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Ok(Self::ROOT);
        }
        let text = text.strip_prefix(':').unwrap_or(text);
        text.split(':').map(Label::from_str).collect()
    }
}

/// The path in the canonical form of a name without a label: `:`, `foo:`, `foo:bar:`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.joined())
    }
}

impl Name {
    /// The unikernel (or block device) `label` at `path`.
    pub fn new(path: Path, label: Label) -> Self {
        Self {
            path,
            label: Some(label),
        }
    }

    /// The path above the final label.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The final label, if the name has one.
    pub fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    /// This name as seen from `prefix`; `None` if it does not lie there.
    pub fn relative_to(&self, prefix: &Path) -> Option<Self> {
        Some(Self {
            path: self.path.relative_to(prefix)?,
            label: self.label.clone(),
        })
    }
}

impl From<Path> for Name {
    fn from(path: Path) -> Self {
        Self { path, label: None }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(path) = text.strip_suffix(':') {
            return Ok(path.parse::<Path>()?.into());
        }
        let mut labels = text.parse::<Path>()?.0;
        let label = labels.pop().ok_or(NameError::Empty)?;
        Ok(Self::new(Path(labels), label))
    }
}

/// The canonical text, the only form ever written: `:`, `:hello`, `foo:bar:web`, `foo:bar:`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        self.label
            .as_ref()
            .map_or(Ok(()), |label| f.write_str(label.as_str()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name cannot be empty (the root is written ':')"),
            Self::BadLabel(text) => write!(
                f,
                "'{}' is no label: 1 to {} of A-Z a-z 0-9 - . are allowed, the first not '-'",
                text.escape_default(),
                Label::MAX_BYTES
            ),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_read_back_as_the_same_name() {
        for text in [
            ":",
            ":hello",
            "foo:bar:web",
            "foo:bar:",
            "foo:",
            ":.",
            "a:b-",
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn a_name_and_the_path_of_the_same_text_are_different_things() {
        let name: Name = ":foo".parse().unwrap();
        let path: Name = "foo:".parse().unwrap();
        assert_ne!(name, path);
        assert_eq!(name.path(), &Path::ROOT);
    }

    #[test]
    fn odd_colons_and_characters_are_refused() {
        for text in [
            "", "::", ":::", "a::", "foo::bar", "-a", "a:-b", "a/b", "ü", "a b",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("x".repeat(63).parse::<Label>().is_ok());
        assert!("x".repeat(64).parse::<Label>().is_err());
    }

    #[test]
    fn comparison_ignores_case() {
        assert_eq!("Foo:BAR".parse::<Name>(), "foo:bar".parse::<Name>());
    }

    #[test]
    fn ancestry_ends_at_the_root() {
        let path: Path = "a:b".parse().unwrap();
        let all: Vec<_> = path.ancestry().map(|p| p.to_string()).collect();
        assert_eq!(all, ["a:b:", "a:", ":"]);
    }
}
