"""The program that writes the text the quickstart model learns from.

`grammar` is a small template language, `words` the lexicon of the stories, `plots` and
`plots_more` the stories, `facts` and `questions` the conversations.
Everything here was written for this repository; nothing is copied from another text.
"""
