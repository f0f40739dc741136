"""What people look at: tables, figures, videos, reports."""
