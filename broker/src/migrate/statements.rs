//! A script's statements, one by one.
//!
//! By its words alone, not its grammar: what this Postgres understands, and no parser
//! here does, is split like all else. Semicolons within strings, comments, parentheses
//! and bodies of BEGIN ATOMIC … END end nothing. Commands of psql are not SQL.

use squawk_lexer::{TokenKind, tokenize};

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<'s> {
    /// From its first word to its last: without the semicolon and the comments around it.
    pub sql: &'s str,
    /// Where it begins in the script, in bytes.
    pub start: usize,
    /// The line it begins on, counted from 1.
    pub line: usize,
    /// The comments directly before it, as they are written: no blank line, and nothing
    /// else, lies between.
    pub comments: Vec<&'s str>,
}

/// The script's statements, in order. None: it has comments alone, or nothing.
pub fn split(script: &str) -> Vec<Statement<'_>> {
    let mut splitter = Splitter {
        script,
        line: 1,
        statements: Vec::new(),
        comments: Vec::new(),
        is_behind: false,
        current: None,
    };
    for piece in pieces(script) {
        splitter.take(&piece);
    }
    splitter.end();
    splitter.statements
}

/// A token, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'s> {
    pub(super) kind: TokenKind,
    pub(super) text: &'s str,
    pub(super) start: usize,
}

impl Piece<'_> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Ident && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is a literal that is no number.
    pub(super) fn is_text(&self) -> bool {
        let begins = self.text.bytes().next();
        begins.is_some_and(|begins| !begins.is_ascii_digit() && begins != b'.')
    }

    pub(super) fn is_trivia(&self) -> bool {
        self.kind == TokenKind::Whitespace || self.is_comment()
    }

    fn is_comment(&self) -> bool {
        matches!(
            self.kind,
            TokenKind::LineComment | TokenKind::BlockComment { .. }
        )
    }

    fn lines(&self) -> usize {
        self.text.matches('\n').count()
    }
}

/// What an SQL text consists of: all of it, trivia too.
pub(super) fn pieces(sql: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut start = 0;
    tokenize(sql).filter_map(move |token| {
        let end = start + token.len as usize;
        let piece = Piece {
            kind: token.kind,
            text: sql.get(start..end)?,
            start,
        };
        start = end;
        Some(piece)
    })
}

struct Splitter<'s> {
    script: &'s str,
    line: usize,
    statements: Vec<Statement<'s>>,
    /// Those that the next statement may have before it.
    comments: Vec<&'s str>,
    /// On the line on which a statement has ended: a comment there is that one's.
    is_behind: bool,
    current: Option<Current>,
}

/// The statement that is being read.
struct Current {
    start: usize,
    end: usize,
    line: usize,
    parentheses: usize,
    is_create: bool,
    /// BEGIN ATOMIC, and each CASE within it, that has no END yet.
    blocks: usize,
    before: Before,
}

/// The word before, as far as the next one's meaning hangs on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Begin,
    /// A dot or AS: what follows is a name, whatever it reads like.
    Naming,
    Other,
}

impl<'s> Splitter<'s> {
    fn take(&mut self, piece: &Piece<'s>) {
        let lines = piece.lines();
        if piece.is_comment() {
            if self.current.is_none() && !self.is_behind {
                self.comments.push(piece.text);
            }
        } else if piece.kind == TokenKind::Whitespace {
            if self.current.is_none() {
                if lines > 1 {
                    self.comments.clear();
                }
                self.is_behind &= lines == 0;
            }
        } else if piece.kind == TokenKind::Semi && !self.is_within() {
            self.end();
            self.is_behind = true;
        } else {
            let line = self.line;
            let current = self.current.get_or_insert_with(|| Current::at(piece, line));
            current.take(piece);
        }
        self.line += lines;
    }

    fn is_within(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| current.parentheses > 0 || current.blocks > 0)
    }

    fn end(&mut self) {
        let comments = std::mem::take(&mut self.comments);
        let Some(current) = self.current.take() else {
            return;
        };
        if let Some(sql) = self.script.get(current.start..current.end) {
            self.statements.push(Statement {
                sql,
                start: current.start,
                line: current.line,
                comments,
            });
        }
    }
}

impl Current {
    fn at(piece: &Piece<'_>, line: usize) -> Self {
        Self {
            start: piece.start,
            end: piece.start,
            line,
            parentheses: 0,
            is_create: piece.is_word("create"),
            blocks: 0,
            before: Before::Other,
        }
    }

    fn take(&mut self, piece: &Piece<'_>) {
        self.end = piece.start + piece.text.len();
        match piece.kind {
            TokenKind::OpenParen => self.parentheses += 1,
            TokenKind::CloseParen => self.parentheses = self.parentheses.saturating_sub(1),
            TokenKind::Ident if self.is_create && self.before != Before::Naming => {
                let begins = self.before == Before::Begin && piece.is_word("atomic");
                if begins || (self.blocks > 0 && piece.is_word("case")) {
                    self.blocks += 1;
                } else if piece.is_word("end") {
                    self.blocks = self.blocks.saturating_sub(1);
                }
            }
            _ => {}
        }
        self.before = match piece.kind {
            TokenKind::Dot => Before::Naming,
            TokenKind::Ident if piece.is_word("as") => Before::Naming,
            TokenKind::Ident if piece.is_word("begin") => Before::Begin,
            _ => Before::Other,
        };
    }
}

#[cfg(test)]
mod tests;
