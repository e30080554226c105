//! Enumerations that people write as words.

/// Gives an enumeration its words: `Display`, and `FromStr`, whose error names them
/// all. Words behind a `|` are read and not written.
///
/// ```
/// #[derive(Debug, PartialEq)]
/// enum Answer { Yes, No }
/// types::words!(Answer { "yes" | "y" => Yes, "no" => No });
/// assert_eq!("y".parse(), Ok(Answer::Yes));
/// assert_eq!(Answer::No.to_string(), "no");
/// assert_eq!("x".parse::<Answer>(), Err("\"x\" is not one of yes, no".to_owned()));
/// ```
#[macro_export]
macro_rules! words {
    ($name:ident { $($word:literal $(| $other:literal)* => $variant:ident),+ $(,)? }) => {
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word $(| $other)* => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}
