"""reports/report.html: what report.md says, and more of classes and images, as a page that needs no other file."""
