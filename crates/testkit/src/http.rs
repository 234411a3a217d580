//! Requests to a service's ops endpoints, as Prometheus and Kubernetes make them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::wait_for;

/// Status and body of a GET.
///
/// # Errors
/// The request fails, or takes longer than 10 s.
pub async fn get(url: &str) -> Result<(u16, String), String> {
    let answer = async {
        let response = reqwest::get(url).await?;
        Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
    };
    match tokio::time::timeout(Duration::from_secs(10), answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{url}: no answer within 10 s")),
    }
}

/// The value of a metric in the text format of Prometheus.
///
/// `name` is a series with its labels as they stand in the text, or a bare name: the sum
/// over all its labels.
#[must_use]
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        is_whole_name.then(|| value.parse::<f64>().ok())?
    });
    values.reduce(|sum, value| sum + value)
}

/// The ops listener of a service.
#[derive(Debug, Clone, Copy)]
pub struct Ops(pub SocketAddr);

impl Ops {
    /// Status and body of a path.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        get(&format!("http://{}{path}", self.0)).await
    }

    /// Status and report of `/readyz`.
    ///
    /// # Errors
    /// There is no answer, or it is not JSON.
    pub async fn readyz(&self) -> Result<(u16, Value), String> {
        let (status, body) = self.get("/readyz").await?;
        let report = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        Ok((status, report))
    }

    /// Why a component is not ready or is degraded; `None` if it is ready.
    ///
    /// # Errors
    /// There is no answer, it is not JSON, or it has no such component.
    pub async fn reason(&self, component: &str) -> Result<Option<String>, String> {
        let (_, report) = self.readyz().await?;
        let found = report["components"].get(component);
        let found = found.ok_or_else(|| format!("no component {component} in {report}"))?;
        Ok(found["reason"].as_str().map(str::to_owned))
    }

    /// Waits until `/readyz` answers with 200.
    pub async fn wait_ready(&self) {
        wait_for("readiness", async || match self.get("/readyz").await? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// A metric's value, see [`metric()`]; `None` if it is not there, or there is no
    /// answer.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await.ok()?;
        metric(&text, name)
    }

    /// Waits until a metric has this value.
    pub async fn wait_metric(&self, name: &str, value: f64) {
        let what = format!("{name} to be {value}");
        self.wait_metric_until(&what, name, |found| found == value)
            .await;
    }

    /// Waits until a metric is at least `least`.
    pub async fn wait_metric_at_least(&self, name: &str, least: f64) {
        let what = format!("{name} to reach {least}");
        self.wait_metric_until(&what, name, |found| found >= least)
            .await;
    }

    async fn wait_metric_until(&self, what: &str, name: &str, enough: impl Fn(f64) -> bool) {
        wait_for(what, async || match self.metric(name).await {
            Some(value) if enough(value) => Ok(()),
            other => Err(other),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::metric;

    const TEXT: &str = "# HELP drops Dropped messages.\n# TYPE drops counter\n\
                        drops{reason=\"full\"} 2\ndrops{reason=\"late\"} 3\ndrops_bytes 700\n";

    #[test]
    fn a_bare_name_is_summed_over_its_labels() {
        assert_eq!(metric(TEXT, r#"drops{reason="late"}"#), Some(3.0));
        assert_eq!(metric(TEXT, "drops"), Some(5.0));
        assert_eq!(metric(TEXT, "drops_bytes"), Some(700.0));
        assert_eq!(metric(TEXT, "drop"), None);
    }
}
