//! The web page: one file, which asks the other routes. It changes nothing, and loads nothing from elsewhere.

use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse, Response};

const PAGE: &str = include_str!("page.html");

/// What is in the file and this endpoint's answers, and nothing else; in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(super) async fn page() -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE)).into_response()
}

#[cfg(test)]
mod tests {
    use super::PAGE;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_markup_of_data() {
        // The name of SVG's namespace is no address that is asked.
        let page = PAGE.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "//cdn", "src=", "@import", "url(", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for unsafe_ in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "POST"] {
            assert!(!page.contains(unsafe_), "{unsafe_}");
        }
    }
}
