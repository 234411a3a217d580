//! `iot-consumer token`: tokens for `auth.mode: tokens_file`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use iot_auth::{NewToken, Role};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Commands for tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Print a new token, and its entry for the file that auth.tokens_file names
    New(NewArgs),
}

/// Arguments of `token new`.
#[derive(Debug, Clone, Args)]
pub struct NewArgs {
    /// The bearer, for the audit log
    #[arg(long)]
    name: String,
    /// What the bearer may do
    #[arg(long, value_enum, default_value = "viewer")]
    role: RoleArg,
    /// A tenant that it may see, or * for all; may be repeated
    #[arg(long, required = true)]
    tenant: Vec<String>,
    /// A project that it may see; may be repeated; all if omitted
    #[arg(long)]
    project: Vec<String>,
    /// A place that it may see, such as building/floor; may be repeated; all if omitted
    #[arg(long)]
    place: Vec<String>,
    /// When the token expires: in a time such as 90d, or at one such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Viewer,
    Operator,
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// A time in the future, in RFC 3339 or relative to now.
fn expiry(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    let relative = || {
        let span: Span = text.parse().ok()?;
        // A zoned time, because only that accepts days.
        let time = now.to_zoned(TimeZone::UTC).checked_add(span).ok()?;
        Some(time.timestamp())
    };
    let time = text.parse().ok().or_else(relative);
    let time = time.filter(|time| *time > now);
    time.ok_or_else(|| {
        format!("{text:?} is not a time in the future, such as 90d or 2099-01-01T00:00:00Z")
    })
}

impl TokenCommand {
    /// Does what was asked for, and returns the exit code of the process.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let Self::New(args) = self;
        match args.token() {
            Ok(token) => {
                // Only the token, so that it can be piped into a secret store.
                println!("{}", token.token.expose());
                eprintln!("Entry for the list `tokens:` of auth.tokens_file:\n{token}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl NewArgs {
    fn token(&self) -> anyhow::Result<NewToken> {
        let all = [String::from("*")];
        let or_all = |given: &'_ [String]| {
            if given.is_empty() {
                all.to_vec()
            } else {
                given.to_vec()
            }
        };
        let (projects, places) = (or_all(&self.project), or_all(&self.place));
        let scope = [&self.tenant[..], &projects, &places];
        NewToken::new(&self.name, self.role.into(), scope, self.expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_expires_in_the_future() {
        for text in ["90d", "1h 30m", "2999-01-01T00:00:00Z"] {
            assert!(expiry(text).is_ok(), "{text}");
        }
        for text in ["", "soon", "-2h", "2020-01-01T00:00:00Z"] {
            assert!(expiry(text).is_err(), "{text}");
        }
    }
}
