"""Translates the formulas of docstrings, which are plain text so that `help()` can show them, to LaTeX.

Factors are written side by side. `/` divides the product on its left by the factor on its right. A parenthesis that
touches a name holds its argument. The translator accepts only the words below.
"""

import re

GREEK = {"alpha", "beta", "epsilon", "gamma", "mu", "rho", "sigma", "tau"}
FUNCTIONS = {"LN", "clip", "max", "mean", "normalization", "sigmoid", "split", "tanh", "trace", "var"}
NAMES = {"batch", "bias", "fan_in", "max", "mean", "momentum", "moving", "moving_mean", "moving_variance", "units"}
NAMES |= {"variance"}
WORDS = {"and", "axis", "channels", "effective", "every", "flows", "gradient", "in", "is", "kernel", "mean", "no"}
WORDS |= {"not", "of", "on", "over", "positions", "ring", "same", "sample", "set", "style", "that", "the", "through"}
WORDS |= {"tree", "with"}
SYMBOLS = {"sum": r"\sum", "log2": r"\log_{2}"}
RELATIONS = {"=": "=", "<": "<", "<-": r"\leftarrow"}
TOKEN = re.compile(r"\s*(fan_in|log2|moving_mean|moving_variance|[A-Za-z]+|\d+|`\w+`|<-|\|\||[-+*/=<,:(){}|^_'])")


def latex(text):
    """The LaTeX of a formula. Raises `ValueError` for a text that is none."""
    return _Parser(text).formula()


class _Parser:
    """Recursive descent, from the whole to the parts: list, relation, sum, product, factor, atom."""

    def __init__(self, text):
        self.tokens, self.touches = [], []
        end = 0
        while match := TOKEN.match(text, end):
            self.tokens.append(match[1])
            self.touches.append(match.start(1) == end)  # the token before it
            end = match.end()
        if end != len(text):
            raise ValueError(f"Not a formula: {text[end:]!r} in {text!r}")
        self.text = text
        self.position = 0
        self.bars = []  # that are open

    def formula(self):
        result = self.list()
        if self.accept(":"):
            result += r"\text{: }" + (self.list() if self.peek() else "")  # a label
        if self.peek():
            self.fail()
        return result

    def list(self):
        parts = [self.relation()]
        while self.accept(","):
            parts.append(self.relation())
        return r" ,\; ".join(parts)

    def relation(self):
        result = self.sum()
        while self.peek() in RELATIONS:
            result += f" {RELATIONS[self.take()]} {self.sum()}"
        return result

    def sum(self):
        result = "-" if self.accept("-") else ""
        result += self.product()
        while self.peek() in ("+", "-"):
            result += f" {self.take()} {self.product()}"
        return result

    def product(self):
        factors = [self.factor()]
        while True:
            if self.accept("/"):
                above = _bare(factors[0]) if len(factors) == 1 else r" \, ".join(factors)
                factors = [rf"\frac{{{above}}}{{{_bare(self.factor())}}}"]
            elif self.accept("*") or self.begins_factor():
                factors.append(self.factor())
            else:
                return r" \, ".join(factors)

    def begins_factor(self):
        token = self.peek()
        return token[:1].isalnum() or token[:1] in ("(", "{", "`") or (token in ("|", "||") and token not in self.bars)

    def factor(self):
        result = self.with_scripts(self.atom())
        while self.peek() == "(" and self.touches[self.position]:
            result = self.with_scripts(result + self.atom())
        return result

    def with_scripts(self, result):
        while self.peek() in ("_", "^", "'"):
            mark = self.take()
            result += mark if mark == "'" else f"{mark}{{{_bare(self.atom())}}}"
        return result

    def atom(self):
        token = self.take()
        if token == "(":
            return rf"\left( {self.until(')')} \right)"
        if token == "{":
            return rf"\left\{{ {self.until(':')} \; : \; {self.until('}')} \right\}}"
        if token in ("|", "||"):
            self.bars.append(token)
            inside = self.until(token)
            self.bars.remove(token)
            return rf"\left{token} {inside} \right{token}".replace("||", r"\|")
        if token in ("sqrt", "floor") and self.accept("("):
            inside = self.until(")")
            return rf"\sqrt{{ {inside} }}" if token == "sqrt" else rf"\left\lfloor {inside} \right\rfloor"
        if token in GREEK:
            return rf"\{token}"
        if token in SYMBOLS:
            return SYMBOLS[token]
        if token in FUNCTIONS and self.peek() == "(":
            return rf"\operatorname{{{token}}}"
        if token in NAMES and self.peek() not in WORDS:
            return rf"\mathrm{{{token}}}".replace("_", r"\_")
        if token in WORDS:
            words = [token]
            while self.peek() in WORDS:
                words.append(self.take())
            return rf"\text{{ {' '.join(words)} }}"
        if token.isdigit() or (len(token) == 1 and token.isalpha()):
            return token
        if token[:1] == "`":
            return rf"\mathtt{{{token[1:-1]}}}"
        self.position -= 1
        return self.fail()

    def until(self, closing):
        inside = self.list()
        if not self.accept(closing):
            self.fail()
        return inside

    def peek(self):
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self):
        token = self.peek()
        self.position += 1
        return token

    def accept(self, token):
        found = self.peek() == token
        self.position += found
        return found

    def fail(self):
        raise ValueError(f"Not a formula: {self.peek() or 'its end'!r} in {self.text!r}")


def _bare(factor):
    """Without the parentheses around the whole of it."""
    inside = re.fullmatch(r"\\left\( (.*) \\right\)", factor)
    depth = 0
    for bracket in re.findall(r"\\left\(|\\right\)", factor)[:-1] if inside else ():
        depth += 1 if bracket == r"\left(" else -1
        if depth == 0:
            return factor
    return inside[1] if inside else factor
