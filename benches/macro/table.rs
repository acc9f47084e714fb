//! Figures of several runs, and how they are shown.

/// What one run came to; the columns of a [`Table`], in its order.
pub(crate) type Run<const N: usize> = [f64; N];

/// Rows of medians under a heading.
pub(crate) struct Table<const N: usize> {
    heading: [&'static str; N],
    rows: Vec<(String, Run<N>)>,
    /// The column whose ratio to the first row is shown.
    compared: usize,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(heading: [&'static str; N], compared: usize) -> Table<N> {
        Table { heading, rows: Vec::new(), compared }
    }

    /// Adds a contestant; the first is what the others are compared with.
    pub(crate) fn add(&mut self, name: &str, runs: &[Run<N>]) {
        self.rows.push((name.to_owned(), medians(runs)));
    }
}

/// The median of each column by itself.
fn medians<const N: usize>(runs: &[Run<N>]) -> Run<N> {
    std::array::from_fn(|column| median(runs.iter().map(|run| run[column])))
}

/// The middle, or between the two in the middle; NaN of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The smallest of the ascending values that so large a part of them does not exceed; NaN of nothing.
pub(crate) fn quantile(ascending: &[f64], part: f64) -> f64 {
    let rank = (part * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.rows.first().map_or(f64::NAN, |(_, row)| row[self.compared]);
        write!(f, "| {:<28} |", "")?;
        self.heading.iter().try_for_each(|name| write!(f, " {name:>12} |"))?;
        writeln!(f, " {:>7} |", "×")?;
        writeln!(f, "|{:-<30}|{}{:-<8}:|", "", format!("{:-<13}:|", "").repeat(N), "")?;
        for (name, row) in &self.rows {
            write!(f, "| {name:<28} |")?;
            row.iter().try_for_each(|value| write!(f, " {:>12} |", figure(*value)))?;
            writeln!(f, " {:>7.2} |", row[self.compared] / first)?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "–".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
