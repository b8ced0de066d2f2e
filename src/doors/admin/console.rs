//! The console: one page for people, embedded in the binary. It asks this door for what it shows, so it needs no token
//! itself, tells nothing, and may load and call nothing but this door.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};

use crate::doors::server::Response;

/// What the page may do: run its own script and style, and call this door. No frame, no form, no other origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every file of it bears.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Another version may answer here tomorrow.
    (header::CACHE_CONTROL, "no-cache"),
];

/// A file of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConsoleFile {
    /// The page.
    Page,
    /// Its script.
    Script,
    /// Its style.
    Style,
}

/// The file as it was built in.
pub(super) fn answer(file: ConsoleFile) -> Response {
    let (media_type, text) = match file {
        ConsoleFile::Page => ("text/html; charset=utf-8", include_str!("console/index.html")),
        ConsoleFile::Script => ("text/javascript; charset=utf-8", include_str!("console/console.js")),
        ConsoleFile::Style => ("text/css; charset=utf-8", include_str!("console/console.css")),
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()).into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_asks_for_nothing_that_its_policy_forbids() {
        let page = include_str!("console/index.html");
        let script = include_str!("console/console.js");
        assert!(!page.contains("style=") && !page.contains("onclick=") && !page.contains("<style"));
        for text in [page, script] {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("//www") && !outside.contains("https:") && !outside.contains("http:"));
        }
        // What is shown comes from keys' kinds, reasons and errors: never as markup. And no token outlives the page.
        for word in
            ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "sessionStorage", "cookie"]
        {
            assert!(!script.contains(word), "{word}");
        }
    }
}
