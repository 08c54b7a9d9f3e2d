//! In which format a client wants the metrics (RFC 9110, section 12.5.1; OpenMetrics 1.0, "Protocol Negotiation").

use prometheus_client::encoding::prometheus_text;

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format, 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// What the values of the `Accept` headers ask for: OpenMetrics if it is named and nothing else is liked better.
    pub(super) fn wanted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let quality = parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
            match kind.as_str() {
                "application/openmetrics-text"
                    if matches!(parameter("version"), None | Some("1.0.0" | "0.0.1")) =>
                {
                    open_metrics = open_metrics.max(quality);
                }
                "text/plain" if matches!(parameter("version"), None | Some("0.0.4")) => {
                    plain = plain.max(quality)
                }
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of the header `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_likes_best() {
        for (accept, format) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/plain"], Format::Text),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&["application/openmetrics-text; version=1.0.0; charset=utf-8"], Format::OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\""], Format::OpenMetrics),
            (&["application/openmetrics-text; version=7.0.0"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;q=0.3, text/plain;q=0.5"], Format::Text),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.5"], Format::OpenMetrics),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Format::Text),
            (
                // Prometheus 2.42
                &[
                    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                Format::OpenMetrics,
            ),
            (&["application/openmetrics-text;q=nonsense"], Format::Text),
        ] {
            assert_eq!(Format::wanted(accept.iter().copied()), format, "{accept:?}");
        }
    }
}
