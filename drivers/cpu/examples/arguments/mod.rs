//! Arguments of the examples that print a line for each thing they time.

/// Part of the lines to print. No keyboard has their sign for products.
pub fn filter(argument: Option<String>) -> String {
    argument.unwrap_or_default().replace(" x ", " × ")
}

/// A number of threads, 0 if it is not given.
pub fn threads(argument: Option<String>) -> usize {
    let message = "THREADS must be a number, 0 for as many as there are cores";
    argument.map_or(0, |n| n.parse().unwrap_or_else(|_| refuse(message)))
}

/// Ends the program with a message.
pub fn refuse(message: &str) -> ! {
    eprintln!("error: {message}");
    std::process::exit(2)
}
