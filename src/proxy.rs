//! The proxy on the way to vendors and to the API server, from environment variables or a kubeconfig.
//!
//! May use: nothing of ours.

use std::ffi::OsString;
use std::fmt;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

/// The variables that may name the proxy of HTTPS requests; the first that is not empty counts.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that may name the hosts that are asked without a proxy; the first that is not empty counts.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A proxy through which HTTPS requests go in a tunnel (CONNECT, RFC 9110, section 9.3.6).
#[derive(Clone)]
pub struct Proxy {
    place: String,
    url: Url,
    exceptions: String,
}

/// The text of a place, such as an environment variable, is no proxy that can be used. The error does not show the
/// text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to use the proxy of {place}: write it as http://host:port or https://host:port (no socks), with a login as \
     http://user:password@host:port, in which '#' is %23, '/' %2F, '?' %3F and '@' %40"
)]
pub struct InvalidProxy {
    place: String,
}

impl Proxy {
    /// The proxy that `HTTPS_PROXY` or `ALL_PROXY` names, or their lower-case spellings, with the exceptions of
    /// `NO_PROXY`: hosts, domains, addresses and networks, separated by commas, or `*`. An empty variable counts as
    /// unset.
    ///
    /// # Errors
    /// When the variable that counts names no proxy that can be used.
    pub fn from_environment() -> Result<Option<Self>, InvalidProxy> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, InvalidProxy> {
        let Some((place, value)) = first_stated(&VARIABLES, &variable) else {
            return Ok(None);
        };
        let text = value.to_str().ok_or(InvalidProxy {
            place: place.to_owned(),
        })?;
        Self::parse(place, text, &exceptions(variable)).map(Some)
    }

    /// The hosts that the environment excepts from any proxy, as in `NO_PROXY`.
    pub fn exceptions_of_environment() -> String {
        exceptions(|name| std::env::var_os(name))
    }

    /// Reads the URL of a proxy; without a scheme, `http` is meant. `place` says in messages where it comes from.
    /// `exceptions` are as in `NO_PROXY`.
    ///
    /// # Errors
    /// When the text is anything but scheme `http` or `https`, host, and perhaps port and login.
    pub fn parse(place: &str, text: &str, exceptions: &str) -> Result<Self, InvalidProxy> {
        let invalid = || InvalidProxy {
            place: place.to_owned(),
        };
        let text = text.trim();
        if text.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(invalid());
        }
        let url = if text.contains("://") {
            Url::parse(text)
        } else {
            Url::parse(&format!("http://{text}"))
        };
        let url = url.map_err(|_| invalid())?;
        let is_proxy = matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        let proxy = Self {
            place: place.to_owned(),
            url,
            exceptions: exceptions.to_owned(),
        };
        // The HTTP clients would ignore a URL that they cannot read, without an error.
        let is_usable = is_proxy
            && proxy
                .matcher("")
                .intercept(&Uri::from_static("https://a"))
                .is_some();
        if is_usable { Ok(proxy) } else { Err(invalid()) }
    }

    /// The way to `host` through this proxy; `None` where an exception names the host.
    pub fn to_host(&self, host: &str) -> Option<Tunnel> {
        let target: Uri = format!("https://{host}/").parse().ok()?;
        let intercept = self.matcher(&self.exceptions).intercept(&target)?;
        Some(Tunnel(intercept))
    }

    fn matcher(&self, exceptions: &str) -> Matcher {
        Matcher::builder().https(self.url.as_str()).no(exceptions).build()
    }

    /// The URL, with user and password.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The hosts that are asked without this proxy, as in `NO_PROXY`.
    pub fn exceptions(&self) -> &str {
        &self.exceptions
    }

    /// The place that names the proxy, such as `HTTPS_PROXY`.
    pub fn place(&self) -> &str {
        &self.place
    }
}

fn exceptions(variable: impl Fn(&str) -> Option<OsString>) -> String {
    let stated = first_stated(&EXCEPTIONS, variable);
    stated.map_or(String::new(), |(_, value)| value.to_string_lossy().into_owned())
}

/// The first of these variables that is not empty, and its value.
fn first_stated(
    names: &[&'static str],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<(&'static str, OsString)> {
    names.iter().find_map(|name| {
        let value = variable(name)?;
        (!value.to_string_lossy().trim().is_empty()).then_some((*name, value))
    })
}

/// Host, port and place, without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        write!(formatter, "{host}:{port} ({})", self.place)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Proxy({self})")
    }
}

/// The way through a proxy to one host.
#[derive(Clone, Debug)]
pub struct Tunnel(Intercept);

impl Tunnel {
    /// Scheme, host and port of the proxy.
    pub fn proxy(&self) -> &Uri {
        self.0.uri()
    }

    /// The value of `Proxy-Authorization` (RFC 9110, section 11.7.2), where the proxy's URL has a login.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Proxy>, InvalidProxy> {
        Proxy::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        })
    }

    fn tunnel(variables: &[(&str, &str)], host: &str) -> Option<String> {
        let proxy = read(variables).unwrap()?;
        let tunnel = proxy.to_host(host)?;
        Some(tunnel.proxy().to_string())
    }

    #[rstest]
    #[case::socks("socks5://u:marked-secret@proxy.example:1080")]
    #[case::socks_by_name("socks5h://u:marked-secret@proxy.example:1080")]
    #[case::unknown_scheme("ftp://u:marked-secret@proxy.example")]
    #[case::number_sign_in_password("http://u:marked-secret#1@proxy.example:3128")]
    #[case::number_sign_after_digits("http://u:12#marked-secret@proxy.example:3128")]
    #[case::slash_in_password("http://u:marked-secret/1@proxy.example:3128")]
    #[case::slash_after_digits("http://u:12/marked-secret@proxy.example:3128")]
    #[case::question_mark_in_password("http://u:marked-secret?1@proxy.example:3128")]
    #[case::path("http://u:marked-secret@proxy.example:3128/pac")]
    #[case::no_host("http://")]
    #[case::no_port("http://u:marked-secret@proxy.example:port")]
    #[case::words("marked-secret of the proxy")]
    #[case::one_slash("http:/u:marked-secret@proxy.example:3128")]
    #[case::line_break("http://u:marked-secret\n@proxy.example:3128")]
    fn a_proxy_that_cannot_be_used_is_refused_by_its_variable_without_its_text(#[case] text: &str) {
        for variable in VARIABLES {
            let error = read(&[(variable, text)]).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(variable), "{error}");
            assert!(!error.contains("marked-secret"), "{error}");
        }
    }

    #[rstest]
    #[case("http://proxy.example:3128", "http://proxy.example:3128/")]
    #[case("https://proxy.example:3128/", "https://proxy.example:3128/")]
    #[case("proxy.example:3128", "http://proxy.example:3128/")]
    #[case("u:p@proxy.example:3128", "http://proxy.example:3128/")]
    #[case(" http://10.0.0.1:3128\n", "http://10.0.0.1:3128/")]
    #[case("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128/")]
    #[case("HTTP://Proxy.Example", "http://proxy.example/")]
    fn a_proxy_that_can_be_used_is_used(#[case] text: &str, #[case] used: &str) {
        let found = tunnel(&[("HTTPS_PROXY", text)], "vendor.example");
        assert_eq!(found.as_deref(), Some(used));
    }

    #[rstest]
    #[case::plain("http://user:secret@proxy.example", "Basic dXNlcjpzZWNyZXQ=")]
    #[case::encoded("http://user:se%23cret@proxy.example", "Basic dXNlcjpzZSNjcmV0")]
    #[case::at_sign("http://user:se@cret@proxy.example", "Basic dXNlcjpzZUBjcmV0")]
    fn a_login_is_sent_as_it_is_meant(#[case] text: &str, #[case] header: &str) {
        let proxy = Proxy::parse("HTTPS_PROXY", text, "").unwrap();
        let tunnel = proxy.to_host("vendor.example").unwrap();
        assert_eq!(tunnel.authorization().unwrap(), header);
        let shown = format!("{proxy} {proxy:?} {tunnel:?}");
        assert!(!shown.contains("cret"), "{shown}");
        assert!(shown.contains("(HTTPS_PROXY)"), "{shown}");
    }

    #[rstest]
    #[case(&[("HTTPS_PROXY", "a:1"), ("https_proxy", "b:2"), ("ALL_PROXY", "c:3")], Some("http://a:1/"))]
    #[case(&[("HTTPS_PROXY", ""), ("https_proxy", "b:2")], Some("http://b:2/"))]
    #[case(&[("HTTPS_PROXY", " "), ("all_proxy", "d:4")], Some("http://d:4/"))]
    #[case(&[("HTTPS_PROXY", "a:1"), ("ALL_PROXY", "socks5://b:2")], Some("http://a:1/"))]
    #[case(&[("HTTPS_PROXY", ""), ("ALL_PROXY", "")], None)]
    #[case(&[("HTTP_PROXY", "a:1")], None)]
    fn the_first_variable_that_is_not_empty_counts(
        #[case] variables: &[(&str, &str)],
        #[case] used: Option<&str>,
    ) {
        assert_eq!(tunnel(variables, "vendor.example").as_deref(), used);
    }

    #[rstest]
    #[case("vendor.example", false)]
    #[case("other.example,vendor.example", false)]
    #[case(".example", false)]
    #[case("localhost,.example,", false)]
    #[case("*", false)]
    #[case("vendor.example.org, ,10.0.0.0/8", true)]
    #[case("", true)]
    fn an_exception_is_asked_directly(#[case] exceptions: &str, #[case] used: bool) {
        let variables = [("HTTPS_PROXY", "proxy.example:3128"), ("NO_PROXY", exceptions)];
        assert_eq!(tunnel(&variables, "vendor.example").is_some(), used);
        assert!(tunnel(&variables, "unlisted.test").is_some() || exceptions == "*");
    }

    #[test]
    fn an_address_in_an_excepted_network_is_asked_directly() {
        let variables = [
            ("HTTPS_PROXY", "proxy.example:3128"),
            ("no_proxy", "10.0.0.0/8,::1"),
        ];
        assert_eq!(tunnel(&variables, "10.1.2.3"), None);
        assert_eq!(tunnel(&variables, "[::1]"), None);
        assert!(tunnel(&variables, "192.0.2.1").is_some());
    }
}
