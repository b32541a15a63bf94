"""The bundled prices; the servers of tests/gateway are not needed here."""

from tests.pricing.conftest import book as book
