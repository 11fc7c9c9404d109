import { createRoot } from 'react-dom/client'
import { Root } from './Root'
import './style.css'

createRoot(document.getElementById('root')!).render(<Root />)
