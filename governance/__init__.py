"""The Django project: settings, addresses, and one small app per noun."""
