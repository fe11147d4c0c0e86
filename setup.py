"Hands the metadata in settings.ini to setuptools; everything else stands in pyproject.toml"
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
meta = config['DEFAULT']


def lines(key): return [line for line in meta[key].splitlines() if line.strip()]


setup(version=meta['version'], description=meta['description'], keywords=meta['keywords'].split(), author=meta['author'],
      license=meta['license'], python_requires='>=' + meta['min_python'], install_requires=lines('requirements'),
      extras_require={'data': lines('data_requirements'), 'export': lines('export_requirements'),
                      'dev': lines('dev_requirements') + lines('data_requirements') + lines('export_requirements')})
