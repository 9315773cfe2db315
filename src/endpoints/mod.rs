//! The gateway's own endpoints.

/// `[login]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `prefix`, default `/auth`; no trailing slash.
    pub prefix: String,
    /// `after_login`, default `/`.
    pub after_login: String,
    /// `after_logout`, default `/`.
    pub after_logout: String,
    /// `user_path`, default `/api/user/me`.
    pub user_path: String,
    /// `allowed_return_origins`: ASCII-serialised origins besides the external one.
    pub allowed_return_origins: Vec<String>,
    /// `return_to_page`, default true; false always ends at `after_login`.
    pub return_to_page: bool,
}
