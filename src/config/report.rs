//! Everything that is wrong with a file at once: line, caret, help.
//!
//! A report never shows a secret: the source it carries has been through [`super::mask`], and no
//! message repeats a value that could be one.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// What is wrong, or merely suspicious, at one place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    severity: Severity,
    message: String,
    span: Option<Range<usize>>,
    related: Option<(Range<usize>, String)>,
    help: Option<String>,
}

/// Whether the gateway may start all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// `check` tells, and the gateway starts.
    Warning,
}

impl Problem {
    /// An error at a byte range of the source.
    pub(super) fn error(span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, message: message.into(), span: Some(span), related: None, help: None }
    }

    /// A warning at a byte range of the source.
    pub(super) fn warning(span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(span, message) }
    }

    /// An error of the file as a whole: there is no source to point at.
    pub(super) fn of_file(message: impl Into<String>) -> Problem {
        Problem { span: None, ..Problem::error(0..0, message) }
    }

    /// Says what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Shows a second place, with a label.
    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Problem {
        self.related = Some((span, label.into()));
        self
    }

    /// Error or warning.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// One sentence without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The problems of one file, in file order.
#[derive(Clone, Default)]
pub struct Report {
    file_name: String,
    source: String,
    problems: Vec<Problem>,
}

impl Report {
    /// `source` is shown as it is: it must have been masked.
    pub(super) fn new(file_name: &str, source: String, mut problems: Vec<Problem>) -> Report {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        Report { file_name: file_name.to_owned(), source, problems }
    }

    /// The problems in file order.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The text for a terminal, with ANSI colours or without; an empty line between problems.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let rendered: Vec<String> = self.problems.iter().map(|problem| self.render_one(problem, &renderer)).collect();
        rendered.join("\n\n")
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(&problem.message).elements(problem.span.as_ref().map(|span| {
            Snippet::source(&self.source)
                .path(&self.file_name)
                .annotation(AnnotationKind::Primary.span(self.within_source(span)))
                .annotations(
                    problem
                        .related
                        .iter()
                        .map(|(span, label)| AnnotationKind::Context.span(self.within_source(span)).label(label)),
                )
        }));
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help));
        }
        // where a comment was taken out of a line, white space is left
        let rendered = renderer.render(&[group]);
        rendered.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// The parser may point behind the end or into the middle of a character.
    fn within_source(&self, span: &Range<usize>) -> Range<usize> {
        let floor = |at: usize| {
            let at = at.min(self.source.len());
            (0..=at).rev().find(|at| self.source.is_char_boundary(*at)).unwrap_or(0)
        };
        floor(span.start)..floor(span.end.max(span.start))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}
