//! XML, read as a stream: elements are told to a sink, nothing is kept of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// A tag, or a text between tags, that is longer is no metadata of packages: the
/// longest description has some KiB.
const LONGEST_PART: usize = 16 << 20;

/// The attributes of an element by their names.
pub(super) type Attributes = BTreeMap<String, String>;

/// What an element is to who reads it.
pub(super) trait Sink {
    /// An element begins, or stands alone.
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String>;
    /// An element ends that had this text.
    fn end(&mut self, name: &str, text: &str) -> Result<(), String>;
}

fn attributes(element: &BytesStart<'_>) -> Result<Attributes, String> {
    let pairs = element.attributes().map(|attribute| {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let value =
            attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|e| e.to_string())?;
        Ok((attribute.key.local_name().as_ref().to_owned(), value.into_owned()))
    });
    pairs.collect()
}

/// Ends what goes on for too long between two events.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            let text = format!("an element of more than {LONGEST_PART} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let got = self.inner.read(buffer)?;
        self.left.set(left.saturating_sub(got));
        Ok(got)
    }
}

/// Reads a document to its end.
pub(super) fn read(input: impl Read, sink: &mut dyn Sink) -> Result<(), String> {
    let left = Rc::new(Cell::new(LONGEST_PART));
    let input = BufReader::new(Metered { inner: input, left: Rc::clone(&left) });
    events(input, &left, sink)
}

fn events(input: impl BufRead, left: &Cell<usize>, sink: &mut dyn Sink) -> Result<(), String> {
    let mut reader = Reader::from_reader(input);
    let mut buffer = Vec::new();
    let mut text = String::new();
    let mut depth = 0_usize;
    loop {
        if text.len() < LONGEST_PART {
            left.set(LONGEST_PART);
        }
        let event = reader.read_event_into(&mut buffer).map_err(|e| e.to_string())?;
        match event {
            Event::Start(element) => {
                depth += 1;
                text.clear();
                sink.begin(element.local_name().as_ref(), attributes(&element)?)?;
            }
            Event::Empty(element) => {
                sink.begin(element.local_name().as_ref(), attributes(&element)?)?;
            }
            Event::End(element) => {
                depth = depth.saturating_sub(1);
                sink.end(element.local_name().as_ref(), text.trim())?;
                text.clear();
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(name) => text.push_str(&reference(&name)?),
            Event::Eof if depth == 0 => return Ok(()),
            Event::Eof => return Err("it ends in the middle".to_owned()),
            _ => {}
        }
        buffer.clear();
    }
}

/// What `&name;` stands for.
fn reference(name: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = name.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(character.to_string());
    }
    let known = quick_xml::escape::resolve_predefined_entity(name);
    known.map(str::to_owned).ok_or_else(|| "an entity that is not known".to_owned())
}
