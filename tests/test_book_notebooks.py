"""The laws of `test_book` that ask every page, asked of the notebooks' pages: beside it, in another process."""

from tests import test_book

PART = "notebooks"
site, address, browser, seen = test_book.site, test_book.address, test_book.browser, test_book.seen
test_pages_in_the_browser = test_book.test_pages_in_the_browser
test_pages_break_no_rule_of_accessibility = test_book.test_pages_break_no_rule_of_accessibility
