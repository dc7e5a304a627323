//! Orders, read from CSV. The whole file is checked before anything is started.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::amount::Amount;

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The order's id, unique in its file.
    pub id: String,
    /// The day it was placed.
    pub date: NaiveDate,
    /// Who placed it.
    pub customer: String,
    /// What it costs.
    pub amount: Amount,
}

/// A file of orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The orders, as they stand in the file.
    pub list: Vec<Order>,
    /// The ids of those whose amount was rounded to a whole cent (see [`super::amount`]).
    pub rounded: Vec<String>,
}

/// The orders that come with the program; `data/README.md` tells where they are from.
const BUILT_IN: &[u8] = include_bytes!("../../data/online-retail-invoices.csv");

/// Why a file gives no orders: which file, where in it, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{place}: {problem}")]
pub struct BadOrders {
    file: String,
    place: Where,
    problem: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Where {
    File,
    Line(u64),
    Cell(u64, &'static str),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, ", line {line}"),
            Self::Cell(line, column) => write!(f, ", line {line}, column {column}"),
        }
    }
}

/// The columns, and the names under which a header may give them.
const COLUMNS: [(&str, &[&str]); 4] = [
    ("order id", &["order", "order_id", "order id", "invoiceno"]),
    ("date", &["date", "order_date", "invoicedate"]),
    ("customer", &["customer", "customer_id", "customerid"]),
    ("amount", &["amount", "total", "totalprice"]),
];

/// The longest order id, in characters: it is part of a saga's id.
const ID_MOST: usize = 100;

impl Orders {
    /// Reads a file, `-` for standard input, or the orders that come with the program.
    pub fn read(input: Option<&Path>) -> Result<Self, BadOrders> {
        let (file, bytes) = match input {
            None => return Self::parse("the built-in orders", BUILT_IN),
            Some(path) if path == Path::new("-") => {
                let mut bytes = Vec::new();
                ("standard input".to_owned(), std::io::stdin().read_to_end(&mut bytes).map(|_| bytes))
            }
            Some(path) => (path.display().to_string(), std::fs::read(path)),
        };
        let bytes = bytes.map_err(|error| BadOrders {
            file: file.clone(),
            place: Where::File,
            problem: format!("cannot be read: {error}"),
        })?;
        Self::parse(&file, &bytes)
    }

    /// Reads orders from the bytes of a file; `file` is its name for messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, BadOrders> {
        parse(bytes).map_err(|(place, problem)| BadOrders { file: file.to_owned(), place, problem })
    }

    /// Leaves out all but the first so many.
    pub fn take_first(&mut self, orders: usize) {
        self.list.truncate(orders);
        let left: HashSet<&str> = self.list.iter().map(|order| order.id.as_str()).collect();
        self.rounded.retain(|order| left.contains(order.as_str()));
    }

    /// What all of them cost.
    pub fn total(&self) -> Amount {
        self.list.iter().map(|order| order.amount).sum()
    }

    /// How many customers placed them.
    pub fn customers(&self) -> usize {
        self.list.iter().map(|order| order.customer.as_str()).collect::<HashSet<_>>().len()
    }
}

type Problem = (Where, String);

fn parse(bytes: &[u8]) -> Result<Orders, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut records = reader.byte_records();
    let header = records.next().ok_or((Where::File, "is empty; the first line names the columns".into()))?;
    let header = header.map_err(csv_problem)?;
    let places = columns(&header)?;

    let mut orders = Orders::default();
    let mut seen = HashMap::new();
    for record in records {
        let record = record.map_err(csv_problem)?;
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != header.len() {
            let problem = format!("has {} fields, the header has {}", record.len(), header.len());
            return Err((Where::Line(line), problem));
        }
        let row = Row { record: &record, places, line };
        let (order, rounded) = row.order()?;
        if let Some(earlier) = seen.insert(order.id.clone(), line) {
            let problem = format!("order {:?} stands in line {earlier} already", order.id);
            return Err((Where::Cell(line, COLUMNS[0].0), problem));
        }
        if rounded {
            orders.rounded.push(order.id.clone());
        }
        orders.list.push(order);
    }
    if orders.list.is_empty() {
        return Err((Where::File, "holds no orders".into()));
    }
    Ok(orders)
}

/// Where in a line each of the columns stands.
fn columns(header: &csv::ByteRecord) -> Result<[usize; 4], Problem> {
    let given: Vec<String> =
        header.iter().map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()).collect();
    let mut places = [0; 4];
    for (place, (column, names)) in places.iter_mut().zip(COLUMNS) {
        let found = given.iter().position(|name| names.contains(&name.as_str()));
        *place = found.ok_or_else(|| {
            let names = names.join(", ");
            (Where::Line(1), format!("the header names no column for the {column}; call it one of: {names}"))
        })?;
    }
    Ok(places)
}

fn csv_problem(error: csv::Error) -> Problem {
    let place = error.position().map_or(Where::File, |position| Where::Line(position.line()));
    (place, format!("is not CSV: {error}"))
}

/// One line of the file.
struct Row<'a> {
    record: &'a csv::ByteRecord,
    places: [usize; 4],
    line: u64,
}

impl Row<'_> {
    fn order(&self) -> Result<(Order, bool), Problem> {
        let id = self.name(0)?;
        let date = self.text(1)?;
        let date = NaiveDate::parse_from_str(date, "%Y-%m-%d")
            .map_err(|_| self.problem(1, format!("{date:?} is not a date; write it as 2011-12-09")))?;
        let customer = self.name(2)?;
        let text = self.text(3)?;
        let read = Amount::read(text).map_err(|why| self.problem(3, format!("{text:?} {why}")))?;
        Ok((Order { id, date, customer, amount: read.amount }, read.rounded))
    }

    fn text(&self, column: usize) -> Result<&str, Problem> {
        let bytes = &self.record[self.places[column]];
        std::str::from_utf8(bytes).map_err(|_| self.problem(column, "is not UTF-8".into()))
    }

    fn name(&self, column: usize) -> Result<String, Problem> {
        let text = self.text(column)?;
        let fine = (1..=ID_MOST).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        let why = || format!("{text:?} has not 1 to {ID_MOST} characters without control characters");
        if fine { Ok(text.to_owned()) } else { Err(self.problem(column, why())) }
    }

    fn problem(&self, column: usize, problem: String) -> Problem {
        (Where::Cell(self.line, COLUMNS[column].0), problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "order,date,customer,amount\n536365,2010-12-01,17850,139.12\n";

    #[test]
    fn the_built_in_orders_are_the_ones_the_documentation_counts() {
        let orders = Orders::read(None).expect("are sound");
        assert_eq!((orders.list.len(), orders.customers()), (18_532, 4_338));
        assert_eq!(orders.total().to_string(), "8,911,407.90");
        assert_eq!(orders.rounded, ["550193", "561226", "568200", "568375"]);
    }

    #[test]
    fn columns_stand_in_any_order_beside_others() {
        let text =
            "\u{feff}Amount,note,Customer,Date,Order\n22.200000000000003,\"a, b\",17850,2010-12-01,a/1\n";
        let orders = Orders::parse("x.csv", text.as_bytes()).expect("is sound");
        let date = NaiveDate::from_ymd_opt(2010, 12, 1).expect("a date");
        let amount = Amount::from_cents(2220);
        assert_eq!(orders.list, [Order { id: "a/1".into(), date, customer: "17850".into(), amount }]);
    }

    #[test]
    fn every_fault_is_named_with_its_place() {
        for (text, message) in [
            ("", "x.csv: is empty; the first line names the columns"),
            ("order,date,customer,amount\n", "x.csv: holds no orders"),
            (
                "order,date,customer\n1,2010-12-01,7\n",
                "x.csv, line 1: the header names no column for the amount; call it one of: amount, total, totalprice",
            ),
            (&format!("{GOOD}1,2010-12-01,7"), "x.csv, line 3: has 3 fields, the header has 4"),
            (&format!("{GOOD}\"1,2010-12-01,7,5\n"), "x.csv, line 3: has 1 fields, the header has 4"),
            (
                &format!("{GOOD}1,2010-12-01,7,-5\n"),
                "x.csv, line 3, column amount: \"-5\" is negative; an order costs nothing or more",
            ),
            (
                &format!("{GOOD}1,2010-12-01,7,\"1,50\"\n"),
                "x.csv, line 3, column amount: \"1,50\" is not an amount; write it as 12.34, without signs, separators or exponents",
            ),
            (
                &format!("{GOOD}1,2010-12-01,7,\n"),
                "x.csv, line 3, column amount: \"\" is empty; write it as 12.34",
            ),
            (
                &format!("{GOOD}1,1.12.2010,7,5\n"),
                "x.csv, line 3, column date: \"1.12.2010\" is not a date; write it as 2011-12-09",
            ),
            (
                &format!("{GOOD},2010-12-01,7,5\n"),
                "x.csv, line 3, column order id: \"\" has not 1 to 100 characters without control characters",
            ),
            (
                &format!("{GOOD}536365,2010-12-01,7,5\n"),
                "x.csv, line 3, column order id: order \"536365\" stands in line 2 already",
            ),
        ] {
            let error = Orders::parse("x.csv", text.as_bytes()).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        let error = Orders::parse("x.csv", b"order,date,customer,amount\n\xff,2010-12-01,7,5\n")
            .expect_err("no UTF-8");
        assert_eq!(error.to_string(), "x.csv, line 2, column order id: is not UTF-8");
        let error = Orders::read(Some(Path::new("/no/such.csv"))).expect_err("no such file").to_string();
        assert!(error.starts_with("/no/such.csv: cannot be read: "), "{error}");
    }
}
