//! The parts of `benches/compare` that count, read, draw and sign. What they are given by programs and machines is not
//! repeatable; what they make of it is.
#![allow(dead_code, reason = "the rest is for the bench")]

#[path = "../benches/compare/chart.rs"]
mod chart;
#[path = "../benches/compare/http.rs"]
mod http;
#[path = "../benches/compare/provider.rs"]
mod provider;
#[path = "../benches/compare/load/said.rs"]
mod said;
#[path = "../benches/compare/sign_in.rs"]
mod sign_in;
#[path = "../benches/compare/statistics.rs"]
mod statistics;
#[path = "../benches/compare/table.rs"]
mod table;

/// As in the bench.
type Failure = Box<dyn std::error::Error>;

mod statistics_tests {
    use crate::statistics::*;

    #[test]
    fn medians_and_quantiles() {
        let odd = Samples::new([3.0, 1.0, 2.0]);
        assert_eq!((odd.median(), odd.least(), odd.most()), (2.0, 1.0, 3.0));
        assert_eq!(Samples::new([4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(Samples::new((0..=100).map(f64::from)).quantile(0.99), 99.0);
        assert!(Samples::new([]).median().is_nan());
    }

    #[test]
    fn ratios_are_of_one_round() {
        // The second round was twice as slow for both.
        let ratios = ratios(&[10.0, 20.0], &[5.0, 10.0]);
        assert_eq!((ratios.least(), ratios.most()), (2.0, 2.0));
    }

    #[test]
    fn a_noisy_run_is_told_from_a_quiet_one() {
        let quiet = Samples::new([0.02; 6]);
        let control = |ratios: &[f64]| Samples::new(ratios.iter().copied());
        let table = [
            (control(&[1.0, 0.98, 1.03, 1.01, 0.99, 1.0]), &quiet, None),
            // One of six rounds may be hit.
            (control(&[1.0, 0.98, 1.5, 1.01, 0.99, 1.0]), &quiet, None),
            (control(&[1.1, 1.09, 1.08, 1.07, 1.0, 1.1]), &quiet, Some("the anchor is 1.08 times itself")),
            (control(&[0.5, 0.6, 1.0, 1.0, 1.5, 1.6]), &quiet, Some("in 67 % of the rounds the anchor is outside")),
            (control(&[1.0; 6]), &Samples::new([0.3; 6]), Some("other processes have 30 %")),
        ];
        for (control, strangers, expected) in table {
            let said = noise(&control, strangers);
            assert_eq!(said.is_some(), expected.is_some(), "{control:?}: {said:?}");
            assert!(said.unwrap_or_default().starts_with(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn what_was_not_measured_is_noise() {
        assert!(noise(&Samples::new([]), &Samples::new([0.0])).is_some());
    }
}

mod table_tests {
    use crate::table::*;

    fn samples(costs: &[f64]) -> Vec<Sample> {
        costs.iter().map(|&cost| Sample { cost, load: None }).collect()
    }

    fn table(goals: &[Goal]) -> Table {
        let mut table = Table::new("plain", "us", goals);
        table.add("nginx", samples(&[10.0, 12.0, 11.0]));
        table.add(CONTROL, samples(&[10.0, 12.0, 11.0]));
        table.add("ours", samples(&[8.0, 8.0, 11.0]));
        table
    }

    #[test]
    fn a_line_for_each() {
        let text = table(&[]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| | ratio | least-most | us |");
        assert_eq!(lines[1], "|---|---|---|---|");
        assert_eq!(lines[4], "| ours | 1.25 | 1.00-1.50 | 8.00 |");
    }

    #[test]
    fn the_control_is_no_bar() {
        assert_eq!(table(&[]).bars(), [("nginx", 1.0), ("ours", 1.25)]);
    }

    #[test]
    fn goals_are_met_missed_or_open() {
        let ratio = |over, at_least| Goal::Ratio { of: "ours", over, at_least };
        let goals =
            [ratio("nginx", 1.25), ratio("nginx", 1.3), ratio("absent", 1.0), Goal::Most { of: "ours", at_most: 7.0 }];
        let verdicts = table(&goals).verdicts();
        let met: Vec<Option<bool>> = verdicts.iter().map(|verdict| verdict.is_met).collect();
        assert_eq!(met, [Some(true), Some(false), None, Some(false)]);
        assert_eq!(verdicts[1].text, "ours at least 1.30 x nginx: **missed** (1.25)");
    }

    #[test]
    fn a_control_that_differs_is_noise() {
        assert_eq!(table(&[]).noise().as_deref(), None);
        let mut noisy = Table::new("plain", "us", &[]);
        noisy.add("nginx", samples(&[10.0, 10.0]));
        noisy.add(CONTROL, samples(&[20.0, 20.0]));
        assert!(noisy.noise().is_some());
    }
}

mod chart_tests {
    use crate::chart::*;

    #[test]
    fn one_bar_each_and_longer_is_better() {
        let bars = vec![("nginx", 1.0), ("latchgate", 2.0)];
        let drawn = svg(&[Group { title: "plain & simple", bars }], "latchgate");
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("plain &amp; simple"));
        let widths: Vec<f64> = drawn
            .split("<rect")
            .skip(1)
            .filter_map(|rect| rect.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
        assert_eq!(drawn.matches("class=\"own\"").count(), 1);
    }

    #[test]
    fn the_picture_is_as_high_as_its_bars() {
        let group = || Group { title: "t", bars: vec![("nginx", 1.0); 3] };
        let height = |drawn: String| -> u32 {
            drawn.split("viewBox=\"0 0 ").nth(1).unwrap().split(['"', ' ']).nth(1).unwrap().parse().unwrap()
        };
        let (one, two) = (height(svg(&[group()], "x")), height(svg(&[group(), group()], "x")));
        assert_eq!(two - one, TITLE + 8 + 3 * (BAR + GAP));
    }
}

mod http_tests {
    use crate::http::*;

    #[test]
    fn responses_end_where_they_say() {
        let whole = |text: &str| is_whole(text.as_bytes()).unwrap();
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        assert!(!whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no"));
        assert!(!whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"));
        assert!(whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"));
        assert!(!whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"));
        assert!(whole("HTTP/1.1 204 No Content\r\n\r\n"));
        assert!(!whole("HTTP/1.1 200 OK\r\n\r\nas long as it takes"));
    }

    #[test]
    fn every_header_of_a_name() {
        let response = "HTTP/1.1 302 Found\r\nset-cookie: a=1; Path=/\r\nLocation: /\r\nSet-Cookie: b=2\r\n\r\n";
        assert_eq!(headers(response, "Set-Cookie").collect::<Vec<_>>(), ["a=1; Path=/", "b=2"]);
        assert_eq!(header(response, "location").unwrap(), "/");
        assert!(header(response, "etag").is_err());
    }
}

mod sign_in_tests {
    use crate::sign_in::cookies;

    #[test]
    fn a_value_may_end_in_padding_and_an_empty_one_is_none() {
        let response = "HTTP/1.1 302 Found\r\nSet-Cookie: csrf=YQ==|1|Yg=; Path=/\r\n\
            Set-Cookie: state=; Path=/\r\nSet-Cookie: old=x; Max-Age=0\r\nSet-Cookie: b=2\r\n\r\n";
        assert_eq!(cookies(response), "csrf=YQ==|1|Yg=; b=2");
    }
}

mod provider_tests {
    use crate::provider::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::Value;

    #[test]
    fn the_token_says_whose_it_is() {
        let provider = Provider::at("127.0.0.1:1".parse().unwrap()).unwrap();
        let answer = |path, token, form| provider.answer(path, token, form, 1_700_000_000).unwrap();
        answer("/token", None, b"code=first");
        let second = answer("/token", None, b"code=second");
        let token = second["access_token"].as_str().unwrap();
        assert_eq!(token.len(), TOKEN_LENGTH);
        assert_eq!(answer("/userinfo", Some(&format!("Bearer {token}")), b"")["sub"], "user-1");
        let claims = second["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!((claims["sub"].as_str(), claims["nonce"].as_str()), (Some("user-1"), Some("second")));
    }
}

mod said_tests {
    use crate::said::*;

    #[test]
    fn what_wrk_says() {
        let counted = Counted { requests: 1000.0, p50: Some(0.97), p99: Some(1.38) };
        assert_eq!(by_wrk("Running 2s test\nsummary: 1000 0 970 1380\n"), Ok(counted));
        assert_eq!(by_wrk("summary: 1000 3 970 1380").unwrap_err(), "3 of 1000 requests failed");
        assert!(by_wrk("summary: 0 0 0 0").is_err());
        assert!(by_wrk("unable to connect").is_err());
    }

    const HEAD: &str = "TLS Protocol: TLSv1.3\nApplication protocol: h2\n";

    #[test]
    fn what_h2load_says() {
        let said = format!("{HEAD}\nfinished in 2.00s\nstatus codes: 84211 2xx, 0 3xx, 0 4xx, 0 5xx\ntraffic: 1MB\n");
        assert_eq!(by_h2load(&said).unwrap().requests, 84211.0);
        assert!(by_h2load(&format!("{HEAD}status codes: 84211 2xx, 0 3xx, 1 4xx, 0 5xx\n")).is_err());
        assert!(by_h2load(&format!("{HEAD}status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx\n")).is_err());
        assert!(by_h2load("Application protocol: http/1.1\nstatus codes: 9 2xx, 0 3xx, 0 4xx, 0 5xx\n").is_err());
    }

    #[test]
    fn what_openssl_says() {
        let said = "Collecting connection statistics for 2 seconds\n\n\n\
                    4321 connections in 1.23s; 3513.01 connections/user sec, bytes read 0\n\
                    4321 connections in 3 real seconds, 0 bytes read per connection\n";
        assert_eq!(by_openssl(said).unwrap().requests, 4321.0);
        assert!(by_openssl("0 connections in 3 real seconds, 0 bytes read per connection").is_err());
        assert!(by_openssl("connect: errno=111").is_err());
    }
}
