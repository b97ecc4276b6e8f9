//! The figures for a person.

use std::collections::BTreeMap;

use crate::measure::Measurement;
use crate::program::Program;

/// One measurement in a line.
pub(crate) fn line(measurement: &Measurement) -> String {
    let servers: Vec<String> = measurement
        .processor
        .iter()
        .map(|(program, seconds)| format!("{program} {seconds:.2}"))
        .collect();
    format!(
        "  {:<17} {:>7.2} s  {:>7.1} objects/s  processor seconds: {}, idle {:.2}",
        measurement.program.name(),
        measurement.took.as_secs_f64(),
        measurement.rate(),
        servers.join(", "),
        measurement.idle.unwrap_or_default()
    )
}

/// The medians side by side, and the ratios of the operator to each floor.
pub(crate) fn table(measurements: &[Measurement]) -> String {
    let mut columns: BTreeMap<Program, Vec<&Measurement>> = BTreeMap::new();
    for measurement in measurements {
        columns.entry(measurement.program).or_default().push(measurement);
    }
    let heads = columns.keys().map(|program| program.name().to_owned()).collect();
    let mut lines = vec![String::new(), row("medians", heads)];
    let mut figure = |label: &str, digits: usize, value: &dyn Fn(&Measurement) -> Option<f64>| {
        let cells = columns
            .values()
            .map(|of_program| {
                let values: Vec<f64> = of_program
                    .iter()
                    .filter_map(|measurement| value(measurement))
                    .collect();
                median(values).map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            })
            .collect();
        lines.push(row(label, cells));
    };
    figure("objects a second", 1, &|measurement| Some(measurement.rate()));
    figure("seconds", 2, &|measurement| Some(measurement.took.as_secs_f64()));
    figure("processor seconds", 2, &Measurement::own_processor);
    figure("processor seconds per 1000 objects", 2, &|measurement| {
        Some(measurement.own_processor()? * 1000.0 / measurement.objects as f64)
    });
    figure("processor seconds of everything", 2, &|measurement| {
        Some(measurement.all_processor())
    });
    figure("seconds without work, all processors", 2, &|measurement| {
        measurement.idle
    });
    figure("peak memory, MiB", 1, &|measurement| {
        measurement.peak_memory.map(|kibibytes| kibibytes as f64 / 1024.0)
    });
    figure("vendor calls", 0, &|measurement| {
        Some(measurement.vendor_calls as f64)
    });
    figure("API requests per object", 3, &|measurement| {
        let all: u64 = measurement.requests.values().sum();
        Some(all as f64 / measurement.objects as f64)
    });
    figure("API writes per object", 3, &|measurement| {
        Some(measurement.writes() as f64 / measurement.objects as f64)
    });
    figure("bytes of a target Secret", 0, &|measurement| {
        Some(measurement.target_bytes)
    });
    figure("bytes of a VendorToken", 0, &|measurement| {
        Some(measurement.object_bytes)
    });
    let mut requests: Vec<&String> = measurements
        .iter()
        .flat_map(|measurement| measurement.requests.keys())
        .collect();
    requests.sort();
    requests.dedup();
    for request in requests {
        figure(&format!("  {request}"), 0, &|measurement| {
            let count = measurement.requests.get(request).copied().unwrap_or_default();
            Some(count as f64)
        });
    }
    let of = |program: Program, value: fn(&Measurement) -> f64| {
        let of_program = columns.get(&program)?;
        median(of_program.iter().map(|measurement| value(measurement)).collect())
    };
    lines.push(String::new());
    for floor in [Program::Floor, Program::FloorSameWrites] {
        let ratio = |value| Some(of(Program::Operator, value)? / of(floor, value)?);
        // On a shared machine the second is the better one: processor time leaves the others' work out.
        if let (Some(rate), Some(work)) = (ratio(Measurement::rate), ratio(Measurement::all_processor)) {
            lines.push(format!(
                "operator / {floor}: {rate:.2} in objects a second; {:.2} in objects per processor second of everything",
                1.0 / work
            ));
        }
    }
    lines.join("\n")
}

fn row(label: &str, cells: Vec<String>) -> String {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>17}")).collect();
    format!("  {label:<38}{cells}")
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((values.get(middle - 1)? + upper) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
