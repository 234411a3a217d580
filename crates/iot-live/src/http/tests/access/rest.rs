//! The REST API and event streams.

use super::*;
use crate::http::routes::{Rule, table};

/// Requests to a path with all names that there are.
fn requests(path: &str) -> Vec<String> {
    if path.contains("{name}") {
        return vec![
            path.replace("{name}", "app.js"),
            path.replace("{name}", NOTHING),
        ];
    }
    let nothing = [NOTHING; 5];
    let devices = DEVICES.iter().chain([&nothing]);
    if path.contains("{device}") {
        let of = |[tenant, project, device, ..]: &[&str; 5]| {
            let path = path.replace("{tenant}", tenant);
            path.replace("{project}", project)
                .replace("{device}", device)
        };
        let unknown = path.replace("{device}", NOTHING);
        let unknown = unknown.replace("{tenant}", "apple");
        let unknown = unknown.replace("{project}", "apple-office");
        return devices.map(of).chain([unknown]).collect();
    }
    if path.ends_with("/device") {
        let of = |[tenant, project, device, ..]: &[&str; 5]| {
            format!("{path}?tenant={tenant}&project={project}&device={device}")
        };
        return devices.map(of).collect();
    }
    let mut all = vec![path.to_owned()];
    if path.ends_with("s") && !path.ends_with("stats") && path.contains("/api/") {
        for (field, parameter) in ["tenant", "project", "device", "building", "sensor"]
            .into_iter()
            .enumerate()
        {
            let names = names(field).into_iter();
            all.extend(names.map(|name| format!("{path}?{parameter}={name}")));
        }
        all.push(format!("{path}?limit=1&offset=1"));
        all.push(format!("{path}?tenant=zebra&device=device-zebra"));
    }
    all
}

/// Status and everything else of an answer.
async fn get(world: &World, path: &str, token: Option<&str>) -> (u16, String) {
    let mut request = reqwest::Client::new().get(world.url(path));
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let response = in_time("an answer", request.send()).await.unwrap();
    let status = response.status().as_u16();
    let headers = format!("{:?}", response.headers());
    if status == 401 {
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    (status, headers + &response.text().await.unwrap())
}

#[tokio::test]
async fn no_answer_has_anything_of_what_the_identity_may_not_see() {
    let world = World::start().await;
    for route in table() {
        for path in requests(route.path) {
            for bearer in RESTRICTED {
                let token = world.bearer(bearer);
                let (status, answer) = get(&world, &path, Some(&token)).await;
                check(bearer, &path, &answer);
                if route.rule == Rule::Read {
                    assert!([200, 400, 403, 404].contains(&status), "{path}: {status}");
                }
            }
            if route.rule == Rule::Read {
                let (status, answer) = get(&world, &path, Some(&world.bearer("all"))).await;
                assert!(
                    [200, 400, 404].contains(&status),
                    "{path}: {status} {answer}"
                );
            }
        }
    }
}

#[tokio::test]
async fn without_an_identity_there_is_nothing_but_the_page() {
    let world = World::start().await;
    let expired = world.bearer("expired");
    let tokens = [
        None,
        Some("Bearer quagga"),
        Some("Basic cXVhZ2dhOg=="),
        Some(&*expired),
    ];
    for route in table() {
        for (path, token) in requests(route.path)
            .iter()
            .flat_map(|path| tokens.map(|token| (path, token)))
        {
            let (status, answer) = get(&world, path, token).await;
            check("nobody", path, &answer);
            match route.rule {
                Rule::Public => assert!([200, 404].contains(&status), "{path}: {status}"),
                Rule::Read => assert_eq!(status, 401, "{path} with {token:?}"),
                // No handshake.
                Rule::Session => assert_eq!(status, 400, "{path}"),
            }
        }
    }
}

#[tokio::test]
async fn a_hidden_name_is_answered_as_one_that_nothing_has() {
    let world = World::start().await;
    for (bearer, path, word) in [
        ("apple", "/api/v1/devices?tenant=zebra", "zebra"),
        ("apple", "/api/v1/alerts?tenant=zebra", "zebra"),
        (
            "apple",
            "/api/v1/readings?device=device-zebra",
            "device-zebra",
        ),
        ("north", "/api/v1/devices?building=mango", "mango"),
        (
            "zebra",
            "/api/v1/alerts?project=apple-office",
            "apple-office",
        ),
        (
            "apple",
            "/api/v1/devices/zebra/zebra-office/device-zebra",
            "zebra",
        ),
        (
            "north",
            "/api/v1/devices/apple/apple-office/device-mango",
            "device-mango",
        ),
        (
            "house",
            "/api/v1/device?tenant=apple&project=p&device=d",
            "apple",
        ),
    ] {
        let token = world.bearer(bearer);
        let hidden = get(&world, path, Some(&token)).await;
        let nothing = get(&world, &path.replace(word, NOTHING), Some(&token)).await;
        let without_date = |answer: String| {
            let parts: Vec<_> = answer.split("\"date\": ").collect();
            parts
                .iter()
                .map(|part| {
                    part.split_once(' ').map_or(*part, |(_, rest)| {
                        rest.split_once("GMT").map_or(rest, |(_, rest)| rest)
                    })
                })
                .collect::<String>()
        };
        let (hidden, nothing) = (
            (hidden.0, without_date(hidden.1)),
            (nothing.0, without_date(nothing.1)),
        );
        assert_eq!(hidden, nothing, "{path}");
    }
    let status =
        async |bearer: &str, path: &str| get(&world, path, Some(&world.bearer(bearer))).await.0;
    assert_eq!(status("apple", "/api/v1/devices?tenant=zebra").await, 403);
    assert_eq!(status("apple", "/api/v1/devices/zebra/p/d").await, 403);
    let mango = "/api/v1/devices/apple/apple-office/device-mango";
    assert_eq!(status("apple", mango).await, 200);
    assert_eq!(status("north", mango).await, 404, "as if it was unknown");
}

#[tokio::test]
async fn lists_and_counts_are_those_of_the_scope() {
    let world = World::start().await;
    for (bearer, devices, alerts) in [
        ("all", 4, 4),
        ("apple", 3, 3),
        ("zebra", 1, 1),
        ("north", 2, 2),
        ("house", 1, 1),
        ("nobody", 0, 0),
    ] {
        let json = async |path: &str| -> Value {
            let request = reqwest::Client::new().get(world.url(path));
            let request = request.header("authorization", world.bearer(bearer));
            in_time("a list", request.send())
                .await
                .unwrap()
                .json()
                .await
                .unwrap()
        };
        for list in ["devices", "readings"] {
            let list = json(&format!("/api/v1/{list}")).await;
            assert_eq!(list["total"], devices, "{bearer}");
            assert_eq!(
                list["devices"].as_array().unwrap().len(),
                devices,
                "{bearer}"
            );
        }
        let list = json("/api/v1/alerts").await;
        assert_eq!(
            (&list["total"], &list["raised"]["critical"]),
            (&alerts.into(), &alerts.into())
        );
        let stats = json("/api/v1/stats").await;
        assert_eq!(
            (&stats["devices"], &stats["alerts_active"]),
            (&devices.into(), &alerts.into())
        );
        // Of the whole service only for those who see all of it.
        let is_all = bearer == "all";
        for field in [
            "messages_total",
            "messages_per_second",
            "lag",
            "partitions",
            "clients",
        ] {
            assert_eq!(stats.get(field).is_some(), is_all, "{bearer}: {field}");
        }
        let partial = if is_all {
            "zebra-log-0: the zebra is being read"
        } else {
            "some partitions are not shown or not up to date"
        };
        assert_eq!(stats["partial"], serde_json::json!([partial]));
    }
}

#[tokio::test]
async fn tokens_in_urls_are_refused_by_name() {
    let world = World::start().await;
    let token = &world.tokens["all"];
    for path in [
        format!("/api/v1/devices?token={token}"),
        format!("/api/v1/devices?limit=1&access_token={token}"),
        format!("/api/v1/alerts?t%6Fken={token}"),
        format!("/ws?token={token}"),
        format!("/?Token={token}"),
    ] {
        let (status, answer) = get(&world, &path, None).await;
        assert_eq!(status, 400, "{path}");
        assert!(answer.contains("token must not be in a URL") && !answer.contains(&**token));
    }
}
