//! A dashboard as Grafana reads it: panels in a grid of 24 columns, variables for the data sources and for the fleet.

use serde_json::{Value as Json, json};

use crate::dashboards::{Dashboard, Panel, Query, Show};

/// Columns of the grid that Grafana has.
const COLUMNS: usize = 24;
/// Panels in one line at most.
const ACROSS_MAX: usize = 4;
/// Height of a panel, in Grafana's own units of 30 pixels.
const HEIGHT: usize = 8;
/// The selector that `$fleet` stands for.
const FLEET: &str = "namespace=~\"$namespace\",service=~\"$service\"";

/// The file of a dashboard.
pub(super) fn text(dashboard: &Dashboard) -> String {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in &dashboard.row {
        panels.push(json!({
            "id": panels.len() + 1,
            "type": "row",
            "title": row.title,
            "collapsed": false,
            "panels": [],
            "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
        }));
        y += 1;
        for line in row.panels.chunks(across(row.panels.len())) {
            let width = COLUMNS / line.len();
            for (place, panel) in line.iter().enumerate() {
                let grid = json!({ "h": HEIGHT, "w": width, "x": place * width, "y": y });
                panels.push(shown(panel, panels.len() + 1, grid));
            }
            y += HEIGHT;
        }
    }
    let whole = json!({
        "uid": format!("parallax-{}", dashboard.name),
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["parallax"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-3h", "to": "now" },
        "links": [{ "type": "dashboards", "title": "Parallax", "tags": ["parallax"], "asDropdown": true, "includeVars": true, "keepTime": true }],
        "templating": { "list": variables() },
        "panels": panels,
    });
    format!("{}\n", serde_json::to_string_pretty(&whole).unwrap())
}

/// So many panels stand in a line that the lines are about equally full.
fn across(panels: usize) -> usize {
    let lines = panels.div_ceil(ACROSS_MAX);
    panels.div_ceil(lines.max(1)).max(1)
}

fn variables() -> Json {
    let source = |name: &str, plugin: &str, label: &str| json!({ "name": name, "type": "datasource", "query": plugin, "label": label });
    let of_the_fleet = |name: &str| {
        json!({
            "name": name,
            "type": "query",
            "datasource": datasource(Show::Lines),
            "query": { "query": format!("label_values(parallax_build_info, {name})"), "refId": name },
            "refresh": 2,
            "includeAll": true,
            // Without an operator the series have no such label; this matches them too.
            "allValue": ".*",
            "current": { "text": "All", "value": "$__all" },
        })
    };
    json!([
        source("metrics", "prometheus", "Metrics"),
        source("traces", "tempo", "Traces"),
        of_the_fleet("namespace"),
        of_the_fleet("service"),
    ])
}

fn datasource(show: Show) -> Json {
    match show {
        Show::Lines | Show::Numbers | Show::Bars => json!({ "type": "prometheus", "uid": "${metrics}" }),
        Show::Traces => json!({ "type": "tempo", "uid": "${traces}" }),
    }
}

fn shown(panel: &Panel, id: usize, grid: Json) -> Json {
    let targets: Vec<Json> =
        panel.queries.iter().zip('A'..).map(|(query, letter)| target(panel, query, letter)).collect();
    let (kind, options) = match panel.show {
        Show::Lines => (
            "timeseries",
            json!({ "tooltip": { "mode": "multi", "sort": "desc" }, "legend": { "displayMode": "list", "placement": "bottom" } }),
        ),
        Show::Numbers => {
            ("stat", json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "textMode": "value_and_name" }))
        }
        Show::Bars => (
            "bargauge",
            json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "orientation": "horizontal", "displayMode": "basic" }),
        ),
        Show::Traces => ("table", json!({})),
    };
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.about.as_deref().unwrap_or_default(),
        "datasource": datasource(panel.show),
        "gridPos": grid,
        "targets": targets,
        "options": options,
        "fieldConfig": { "defaults": { "unit": panel.unit.as_deref().unwrap_or("short"), "min": Json::Null }, "overrides": [] },
    })
}

fn target(panel: &Panel, query: &Query, letter: char) -> Json {
    let id = letter.to_string();
    if panel.show == Show::Traces {
        return json!({ "refId": id, "datasource": datasource(panel.show), "queryType": "traceql", "query": query.expr, "limit": 50 });
    }
    json!({
        "refId": id,
        "datasource": datasource(panel.show),
        "expr": query.expr.replace("$fleet", FLEET).replace("$rate", "$__rate_interval"),
        "legendFormat": query.legend,
        "instant": panel.show != Show::Lines,
        "range": panel.show == Show::Lines,
        "exemplar": panel.exemplars,
    })
}
